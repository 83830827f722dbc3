"""The computation: vision tower, prefill and decode step, attention, KV cache, greedy head; and its transfers.

May import: answers, requests, scheduling, layers.
"""
