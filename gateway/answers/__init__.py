"""Turns Triton's results into the body of an answer."""
