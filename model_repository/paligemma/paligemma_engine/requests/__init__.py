"""The records of a request: as received, prepared, as sequences, and as an answer.

May import: answers.
"""
