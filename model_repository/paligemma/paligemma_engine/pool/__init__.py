"""Several checkpoints by id: the loaded ones, those that requests wait for, and those that failed.

May import: requests, checkpoints, scheduling, memory.
"""
