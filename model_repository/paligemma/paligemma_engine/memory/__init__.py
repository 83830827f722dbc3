"""Memory: whether a checkpoint fits, how many slots fit, a container's limits, and the release of memory.

May import: checkpoints, preparation.
"""
