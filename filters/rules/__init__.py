"""Rules: which pairs are kept, and why others are dropped, from the experiment file to SQL."""
