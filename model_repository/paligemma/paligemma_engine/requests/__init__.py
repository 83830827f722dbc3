"""TODO requests."""
