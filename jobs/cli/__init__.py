"""The command `cuvee`."""
