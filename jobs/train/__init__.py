"""The stages `tune` and `train`."""
