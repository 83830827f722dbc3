"""Parts of benchmark.py: the work, the baselines, the load, and the processes' costs."""
