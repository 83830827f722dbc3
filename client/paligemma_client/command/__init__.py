"""The command paligemma-segment."""
