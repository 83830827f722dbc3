"""Finds, downloads and loads weights: ids, files, the hub, adapters, quantisation.

May import: answers, layers.
"""
