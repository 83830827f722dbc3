"""What keeps a server from being verified."""


class CannotVerify(Exception):
    """Nothing can be compared; the message says why, and what to do."""
