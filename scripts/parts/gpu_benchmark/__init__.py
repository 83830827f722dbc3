"""What gpu_benchmark.py is made of: the model, the work, the contenders, the card's ceilings, and the report."""
