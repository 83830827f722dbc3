"""API keys."""

import hashlib
import hmac
from pathlib import Path
from typing import Annotated, Self

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from gateway.errors import ApiError

BEARER = HTTPBearer(auto_error=False, description="One of the keys in the gateway's API_KEYS_FILE.")


class ApiKeys:
    """The keys that open the API, kept as digests: these are of one length, so comparing them tells nothing."""

    def __init__(self, keys: list[str]) -> None:
        self._digests = [_digest(key) for key in keys]

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """One key a line; empty lines and those that start with # are left out.

        Raises:
            OSError: the file cannot be read.
            ValueError: there is no key in it.
        """
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
        keys = [line for line in lines if line and not line.startswith("#")]
        if not keys:
            raise ValueError(f"{path}: no key in it; put one on each line, or unset API_KEYS_FILE")
        return cls(keys)

    def accept(self, key: str) -> bool:
        """Whether it is one of the keys; takes as long for every key."""
        digest = _digest(key)
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()


async def require_key(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]
) -> None:
    """Lets a request with a known key pass; raises ApiError for others. A dependency of protected routers."""
    keys: ApiKeys = request.app.state.api_keys
    if credentials is None or not keys.accept(credentials.credentials):
        raise ApiError("unauthorized", "send a valid key in the header Authorization: Bearer <key>")
