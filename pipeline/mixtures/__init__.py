"""Mixtures: parts, quotas, and the diff between two mixtures."""
