"""Fetches a user's URL without reaching private networks.

A host name is resolved once, every address is checked, and the connection goes to a checked address. TLS certificates
are verified against the name. Redirects are followed one by one, each with the same checks.
"""

from gateway.fetching.fetcher import Fetcher

__all__ = ["Fetcher"]
