"""Where every pair came from and went: funnel, trace, verification."""
