"""Signals and rules, one file a family. Signals say numbers and know no threshold; rules decide and score nothing."""
