"""Linear layers as a CPU computes them quickest: with packed weights, or in 8 bits.

May import: no other room.
"""
