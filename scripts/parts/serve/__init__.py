"""What serve.py is made of: a server process, the processes and files to watch, and the ports."""
