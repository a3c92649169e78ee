"""Provenance of pairs: funnel, trace, verification."""
