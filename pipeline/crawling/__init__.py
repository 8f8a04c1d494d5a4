"""What a crawl of URL lists is made of; `pipeline/crawl.py` is its door."""
