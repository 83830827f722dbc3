"""The records of a request on its way: as it came, prepared, as sequences, as an answer.

May import: answers.
"""
