"""Pairs taken out of a store for good."""
