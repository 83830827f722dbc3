"""Who runs when: engine, scheduler, sender, heartbeat. Knows no torch.

May import: requests, checkpoints, preparation.
"""
