"""Parts of soak.py: the kinds of requests, the caller, and memory."""
