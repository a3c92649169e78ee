"""What operators look at: OpenLineage events, Prometheus metrics, the cost model."""
