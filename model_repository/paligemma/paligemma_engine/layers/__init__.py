"""Fast layers: for CPUs with packed weights, in 8 bits, or with few kernels; the last layer of a prefill.

May import: no other room.
"""
