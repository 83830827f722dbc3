"""TODO device."""
