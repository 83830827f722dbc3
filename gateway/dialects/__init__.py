"""Other tools' protocols: each reads what its tool sends, asks as /segment does, and answers in that tool's words."""
