"""The steps of a build; `pipeline/build.py` goes through them."""
