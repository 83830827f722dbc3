"""Records, logs and metrics of requests."""
