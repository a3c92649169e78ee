"""Signals: numbers about a pair, one kind per file, looked up in the registry."""
