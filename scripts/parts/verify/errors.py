"""Why a server cannot be verified."""


class CannotVerify(Exception):
    """Nothing can be compared; the message says why, and what to do."""
