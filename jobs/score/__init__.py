"""Signals that look at the whole corpus at once, or at other signals' tables: a module for each kind, with `score`."""
