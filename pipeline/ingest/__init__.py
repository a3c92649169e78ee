"""Ingest: a shard's published rows are fetched and written as a tar."""
