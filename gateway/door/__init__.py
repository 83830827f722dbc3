"""Who may come in, with how much, and for how long."""
