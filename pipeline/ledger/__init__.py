"""The ledger: Delta tables, their schemas, their data files, and the graph of jobs."""
