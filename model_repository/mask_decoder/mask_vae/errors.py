"""The errors of this package.

MaskVaeError
    CheckpointError    the weights cannot be used
    InvalidCodes       the caller's codes are out of range
"""


class MaskVaeError(Exception):
    """Base of this package's errors; the message is fit for the caller."""


class CheckpointError(MaskVaeError):
    """The weights are missing, damaged, or of another layout."""


class InvalidCodes(MaskVaeError):
    """A row of codes is neither 16 values in [0, 127] nor all -1."""
