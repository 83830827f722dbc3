"""Other tools' protocols, each a thin adapter over gateway.call."""
