"""Fetches a user's URL without reaching where the user does not belong.

A name is resolved once, every answer is checked, and the connection goes to a checked address; TLS is verified
against the name. Redirects are followed by hand, each with the same checks.
"""

from gateway.fetching.fetcher import Fetcher

__all__ = ["Fetcher"]
