"""From a manifest to shards."""
