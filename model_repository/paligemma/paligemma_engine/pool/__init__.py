"""Several checkpoints by id: which are loaded, which wait, which failed.

May import: requests, checkpoints, scheduling, memory.
"""
