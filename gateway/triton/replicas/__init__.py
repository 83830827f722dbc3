"""Several Tritons behind one gateway: balancing, ejection of failed replicas, and retries."""
