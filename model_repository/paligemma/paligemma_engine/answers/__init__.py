"""What tokens mean: vocabulary, grammar, repeated objects, texts.

May import: no other room.
"""
