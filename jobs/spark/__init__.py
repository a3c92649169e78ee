"""Spark: its session and Java, tasks with completion records, DataFrames of the ledger's tables."""
