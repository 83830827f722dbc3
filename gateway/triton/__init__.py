"""What Triton is asked, and what it answers."""
