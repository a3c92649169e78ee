"""Signals: numbers about a pair, one kind a file, found through the registry."""
