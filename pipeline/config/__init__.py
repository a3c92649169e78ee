"""The experiment file: frozen sections, checked when they are built."""
