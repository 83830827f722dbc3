"""Parts of gpu_benchmark.py: the model, the work, the contenders, the GPU's ceilings, and the report."""
