"""Trainings: recipe, launcher, entry point, hyperparameter search."""
