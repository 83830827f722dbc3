"""Fast linear layers for CPUs: with packed weights, or in 8 bits.

May import: no other room.
"""
