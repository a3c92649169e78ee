"""What measures Cuvée: each figure is a ratio of two timings of one run, as machines differ and are noisy."""
