"""The key for Label Studio's images.

Label Studio has two kinds: legacy tokens, which are sent unchanged, and personal access tokens: JSON web tokens that
are exchanged for one that is valid for minutes.
"""

import asyncio
import base64
import json
import time
from typing import Any, Final

import httpx2

from gateway.errors import ApiError
from gateway.settings import Settings, header_key

JWT_PARTS: Final = 3
REFRESH_PATH: Final = "/api/token/refresh/"  # without the slash it would be redirected, and a redirect loses the body
REFRESH_TIMEOUT_S: Final = 5.0
FAILURE_LASTS_S: Final = 5.0  # after a failed exchange the next try waits, however many tasks need the key
EARLY_S: Final = 30.0  # a token is renewed so long before it expires; clocks may differ, and fetching takes time


class LabelStudioKey:
    """The operator's key; one for the whole application."""

    def __init__(self, settings: Settings) -> None:
        """Reads nothing yet, since the file may be replaced while the gateway runs."""
        self._url = settings.label_studio_url
        self._key = settings.label_studio_api_key
        self._file = settings.label_studio_api_key_file
        self._lock = asyncio.Lock()
        self._refreshed_with = ""
        self._access = ""
        self._expires_at = 0.0
        self._failed_with = ""
        self._failed_at = 0.0

    async def authorization(self) -> str:
        """Returns the header for a request to Label Studio; raises ApiError without a valid key."""
        key = self._read()
        kind = _claims(key).get("token_type")
        if kind is None:
            return f"Token {key}"
        if kind != "refresh":
            return f"Bearer {key}"
        async with self._lock:
            if key != self._refreshed_with or time.time() >= self._expires_at - EARLY_S:
                if key == self._failed_with and time.monotonic() - self._failed_at < FAILURE_LASTS_S:
                    raise _not_exchanged()
                self._access = await self._refresh(key)
                self._refreshed_with, self._expires_at = key, float(_claims(self._access).get("exp", 0))
            return f"Bearer {self._access}"

    def _read(self) -> str:
        if self._key is not None:
            return self._key.get_secret_value()
        if self._file is None:
            message = "Label Studio's images need a key; set LABEL_STUDIO_API_KEY or LABEL_STUDIO_API_KEY_FILE"
            raise ApiError("fetch_failed", message)
        try:
            return header_key(self._file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ApiError("fetch_failed", "LABEL_STUDIO_API_KEY_FILE cannot be read") from error
        except ValueError:  # `from None` keeps the file's content out of the log
            message = "LABEL_STUDIO_API_KEY_FILE does not hold one line of printable ASCII characters"
            raise ApiError("fetch_failed", message) from None

    async def _refresh(self, key: str) -> str:
        try:
            async with httpx2.AsyncClient(timeout=REFRESH_TIMEOUT_S, trust_env=False) as client:
                response = await client.post(f"{self._url}{REFRESH_PATH}", json={"refresh": key})
                response.raise_for_status()
                return header_key(str(response.json()["access"]))
        except (httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
            self._failed_with, self._failed_at = key, time.monotonic()
            raise _not_exchanged() from error


def _not_exchanged() -> ApiError:
    return ApiError(
        "fetch_failed", "Label Studio does not exchange LABEL_STUDIO_API_KEY for a token; make a new one there"
    )


def _claims(token: str) -> dict[str, Any]:
    """Returns the claims of a JSON web token, unverified; empty if it is not one."""
    parts = token.split(".")
    if len(parts) != JWT_PARTS:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return {}
    return claims if isinstance(claims, dict) else {}
