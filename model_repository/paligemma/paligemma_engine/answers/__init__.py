"""TODO answers."""
