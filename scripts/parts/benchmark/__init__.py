"""What benchmark.py is made of: the work, the baselines, the load, and what the processes cost."""
