"""Training: recipe, launcher, entry point, hyperparameter search."""
