"""API keys, in a file that may change while the gateway runs."""

import hashlib
import hmac
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from fastapi import Depends, FastAPI, Request
from fastapi.security import (
    APIKeyHeader,
    HTTPAuthorizationCredentials,
    HTTPBasic,
    HTTPBasicCredentials,
    HTTPBearer,
)

from gateway.errors import ApiError
from gateway.watching.record import record_of

BEARER: Final = HTTPBearer(auto_error=False, description="One of the keys in the gateway's API_KEYS_FILE.")
KEY_HEADER: Final = APIKeyHeader(
    name="X-API-Key", auto_error=False, description="The same keys, for clients that ask so."
)
BASIC: Final = HTTPBasic(auto_error=False, description="Any user name, and one of the keys as the password.")
TOKEN_HEADER: Final = APIKeyHeader(name="Token", auto_error=False, description="The same keys, for X-AnyLabeling.")
LOOK_EVERY_S: Final = 1.0  # how often the file is checked for changes

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key of the API, kept as a digest. Digests have one length, so comparing them reveals nothing about a key.

    Attributes:
        name: for the log; None for a key without one.
        digest: SHA-256 of the key.
    """

    name: str | None
    digest: bytes


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """One `key` or `name:key` a line; empty lines and those that start with # are left out.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file has no key, a line is malformed, or a key cannot be sent in a header. The message does not
            contain the file's text.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError:  # its text holds what is in the file
        raise ValueError(f"{path}: not UTF-8; write one key, or name:key, on each line") from None
    keys = []
    for number, line in enumerate(lines, start=1):
        if line and not line.startswith("#"):
            before, colon, after = (part.strip() for part in line.partition(":"))
            if colon and not (before and after):
                raise ValueError(f"{path}, line {number}: write name:key, or a key alone")
            name, key = (before, after) if colon else (None, before)
            if not (key.isascii() and key.isprintable()):
                raise ValueError(f"{path}, line {number}: a key may only have printable ASCII characters")
            keys.append(ApiKey(name, _digest(key)))
    if not keys:
        raise ValueError(f"{path}: no key in it; put one on each line, or unset API_KEYS_FILE")
    return tuple(keys)


class KeyFile:
    """The keys of a file, which is checked for changes at most once a second. If it is broken, the old keys stay."""

    def __init__(self, path: Path) -> None:
        """Raises OSError or ValueError for a file without keys."""
        self._path = path
        self._seen = self._state()
        self._keys = read_keys(path)
        self._looked_at = time.monotonic()

    def find(self, key: str) -> ApiKey | None:
        """Returns the matching key, if any. Takes the same time for every key."""
        if time.monotonic() - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = time.monotonic()
            if self._state() != self._seen:
                self.reload()
        digest = _digest(key)
        matching = [known for known in self._keys if hmac.compare_digest(digest, known.digest)]
        return matching[0] if matching else None

    def reload(self) -> None:
        """Reads the file now."""
        self._seen = self._state()
        try:
            self._keys = read_keys(self._path)
        except (OSError, ValueError) as error:
            _log.error(
                "API_KEYS_FILE cannot be read; the keys stay as they were", extra={"fields": {"cause": str(error)}}
            )
        else:
            _log.info("API_KEYS_FILE was read again", extra={"fields": {"keys": len(self._keys)}})

    def _state(self) -> tuple[int, ...] | None:
        """Differs when the file was changed or replaced; None where there is none."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns


async def require_key(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)],
    header: Annotated[str | None, Depends(KEY_HEADER)],
) -> None:
    """Records the name of a request's key; raises ApiError without a valid key. A dependency of protected routers."""
    admit(request, header, bearer.credentials if bearer else None)


async def require_key_or_token(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)],
    header: Annotated[str | None, Depends(KEY_HEADER)],
    token: Annotated[str | None, Depends(TOKEN_HEADER)],
) -> None:
    """The same for routers whose clients send the key in the header `Token`."""
    admit(request, header, bearer.credentials if bearer else None, token)


async def require_key_or_password(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)],
    header: Annotated[str | None, Depends(KEY_HEADER)],
    basic: Annotated[HTTPBasicCredentials | None, Depends(BASIC)],
) -> None:
    """The same for routers whose clients send the key as the password of basic authentication."""
    admit(request, header, bearer.credentials if bearer else None, basic.password if basic else None)


async def admit_by_head(request: Request, in_query: str | None) -> bool:
    """The same for routes whose clients may send the key elsewhere, too; where there are no keys, everybody passes.

    Args:
        request: may have a key in one of its headers.
        in_query: the key in its query, if there is one.

    Returns:
        False where no key is in either: it may be in the body. A wrong one is refused before that is read.
    """
    if not hasattr(request.app.state, "api_keys"):
        return True
    bearer = await BEARER(request)
    offered = (await KEY_HEADER(request), bearer.credentials if bearer else None, in_query)
    if not any(offered):
        return False
    admit(request, *offered)
    return True


def admit(request: Request, *offered: str | None) -> None:
    """Records the name of the first valid key; raises ApiError if none is. For requests where there are keys."""
    keys: KeyFile = request.app.state.api_keys
    found = next((key for key in map(keys.find, filter(None, offered)) if key is not None), None)
    if found is None:
        raise ApiError("unauthorized", "send a valid key in the header Authorization: Bearer <key>, or X-API-Key")
    if found.name is not None:
        record_of(request.scope).notes["key_name"] = found.name


def reload_keys(app: FastAPI) -> None:
    """Reads the file of an application's keys now, if it has one."""
    keys = getattr(app.state, "api_keys", None)
    if isinstance(keys, KeyFile):
        keys.reload()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="surrogateescape")).digest()
