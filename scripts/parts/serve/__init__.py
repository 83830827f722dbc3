"""Parts of serve.py: the server process, the processes and files that are watched, the ports, the metrics."""
