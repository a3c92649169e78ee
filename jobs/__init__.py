"""The command line, one thin wrapper for each stage, and the only floor that starts Spark."""
