"""Parts of evaluate.py: cases with known truth, the servers and checkpoints that answer, and the published protocol."""
