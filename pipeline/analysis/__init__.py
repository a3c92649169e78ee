"""What the evaluated models show: trends, ranking, error analysis, contamination."""
