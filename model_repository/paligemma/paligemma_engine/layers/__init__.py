"""Fast layers: linear ones for CPUs, with packed weights or in 8 bits; the last layer of a prefill.

May import: no other room.
"""
