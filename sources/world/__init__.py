"""The small web of the demo: generated images in six published formats, served on loopback."""
