"""Parts of replicas_drill.py, replicas_benchmark.py and capacity.py: clients, metrics, the table of memory."""
