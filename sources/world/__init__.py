"""The demo's own small web: a generated visual world in six published formats, served on loopback."""
