"""Admission of requests: keys, sizes, numbers and deadlines."""
