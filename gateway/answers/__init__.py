"""From what Triton found to the body of an answer."""
