"""The execution: the runner, captured and compiled steps, threads, kept features.

May import: answers, requests, checkpoints, preparation, scheduling, model, layers.
"""
