"""Signals and rules, one file per family. Signals compute numbers without thresholds; rules decide, without scoring."""
