"""Rules: what keeps a pair and why not, from the experiment file to SQL."""
