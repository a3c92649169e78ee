"""Analyses of the evaluated models: trends, ranking, error analysis, contamination."""
