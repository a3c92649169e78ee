"""The stage export."""
