"""The workflow: an experiment, its plan of jobs, and the runner."""
