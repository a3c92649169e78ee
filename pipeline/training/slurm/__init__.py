"""Trainings as Slurm job arrays."""
