"""What ends the whole command."""


class UsageError(Exception):
    """The command line, or a file that it names, cannot be used; the message says what to change."""


class ServerGone(Exception):
    """The server cannot be used; the message says why. What is done is kept."""
