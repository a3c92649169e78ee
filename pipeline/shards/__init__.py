"""WebDataset tars: writing, reading, and rewriting without some of their pairs."""
