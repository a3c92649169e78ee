"""WebDataset tars: written, read, and rewritten without some of their pairs."""
