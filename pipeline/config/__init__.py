"""The experiment file: frozen sections, validated when they are built."""
