"""The order of work: engine, scheduler, sender, heartbeat. Imports no torch.

May import: requests, checkpoints, preparation.
"""
