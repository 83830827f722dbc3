"""The interface to Triton: requests, answers, replicas, and the list of models."""
