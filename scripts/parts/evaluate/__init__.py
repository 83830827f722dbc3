"""How well a model answers: cases with a known truth, who is asked, and the published protocol's arithmetic."""
