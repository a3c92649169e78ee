"""Signals and rules, one file per family. Signals compute numbers without thresholds; rules decide and score nothing."""
