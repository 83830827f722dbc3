"""What is known of requests: records, logs, metrics."""
