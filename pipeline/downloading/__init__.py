"""The files of manifests: which, from where, whether there is room, and what is in them; `pipeline/fetch.py` gets one."""
