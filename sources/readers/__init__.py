"""What the formats share: lines, blocks of bz2, Parquet, cells, JSON values."""
