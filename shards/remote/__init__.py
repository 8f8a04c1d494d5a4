"""Datasets at a URL, through a bounded cache on this machine: `store.py` is the way in, from `shards/root.py`."""
