"""What scripts/label_studio_check.py is made of."""
