"""Takedown: permanent removal of pairs from a store."""
