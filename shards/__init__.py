"""The on-disk format of BitGen: tar shards, their index, and the stream of samples from them."""
