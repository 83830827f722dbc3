"""Image decoding and tokenization: the inputs of a prefill.

May import: answers, requests, checkpoints.
"""
