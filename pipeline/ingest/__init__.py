"""From a shard's published rows to its tar."""
