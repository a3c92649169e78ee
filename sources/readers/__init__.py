"""Readers that the formats share: lines, bz2 blocks, Parquet, cells, JSON values."""
