"""From bytes and words to what a prefill is given.

May import: answers, requests, checkpoints.
"""
