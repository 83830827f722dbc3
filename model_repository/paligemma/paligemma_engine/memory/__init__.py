"""What fits: of a checkpoint, of slots, of a container; and how memory is given back.

May import: checkpoints, preparation.
"""
