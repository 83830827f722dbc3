"""Finds and fetches the pictures of tasks."""

import asyncio
import base64
from typing import Any, Final
from urllib.parse import urlsplit

from gateway.call import Call
from gateway.dialects.label_studio.keys import LabelStudioKey
from gateway.door.deadline import time_is_up
from gateway.errors import ApiError
from gateway.fetching import Fetcher
from gateway.fetching.addresses import AddressPolicy
from gateway.fetching.network import Resolver
from gateway.fetching.urls import Origin, parse_url
from gateway.inputs.read import EncodedImage, read_image_text
from gateway.settings import Settings
from gateway.watching.metrics import Metrics

STORAGE_SCHEMES: Final = ("s3", "gs", "azure-blob")  # Label Studio has the access to them
# Paths of Label Studio's files. The key is sent only there, so that a task's data cannot use it for other paths.
FILE_PATHS: Final = ("/data/", "/storage-data/", "/tasks/")


class Pictures:
    """Fetches the pictures of tasks; one for the whole application.

    Label Studio may have any address, and receives the key. For other servers the rules of /segment hold.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        assert settings.label_studio_url is not None
        self._site = settings.label_studio_url
        self._origin = Origin.of(parse_url(self._site))
        self._key = LabelStudioKey(settings)
        self._max_image_bytes = settings.max_image_bytes
        self._fetcher = Fetcher(
            resolve=Resolver(),
            policy=AddressPolicy(settings.url_fetch_allowed_networks),
            max_image_bytes=settings.max_image_bytes,
            on_blocked=metrics.count_blocked_fetch,
            trusted=self._origin,
            trusted_only=settings.url_fetch == "off",
        )

    async def fetch(self, call: Call, value: Any, task_id: int) -> EncodedImage:
        """Returns the picture that a task's data names.

        Args:
            call: the task's own; its share of the byte budget grows with the picture.
            value: a path or URL of Label Studio, a URL of a cloud's storage, an http, https or data: URL.
            task_id: for cloud storage, which Label Studio reads.

        Raises:
            ApiError: it cannot be fetched.
        """
        if not isinstance(value, str) or not value:
            raise ApiError("missing_image", "the task's data has no picture under the name in the labelling interface")
        if value[:5].lower() == "data:":
            return await call.in_decoder(lambda: read_image_text(value, self._max_image_bytes))
        url = self.locate(value, task_id)
        parsed = parse_url(url)
        if Origin.of(parsed) != self._origin:
            return await self._fetch_elsewhere(call, url)
        if "\\" in parsed.path or ".." in parsed.path.split(
            "/"
        ):  # checked after decoding: an encoded path may lead elsewhere
            raise ApiError("invalid_url", "the picture's path has a backslash or .. in it")
        path = parsed.path.removeprefix(urlsplit(self._site).path)
        authorization = await self._authorization(call) if path.startswith(FILE_PATHS) else None
        with call.record.phase("fetch"):
            return await self._fetcher.fetch(
                url,
                timeout_s=call.deadline.remaining_s(),
                on_received=call.share.grow,
                authorization=authorization,
            )

    async def _fetch_elsewhere(self, call: Call, url: str) -> EncodedImage:
        if call.services.fetcher is None:  # not the task's fault, so it may be asked for again
            raise ApiError("fetch_failed", "the picture is not in Label Studio, and URL_FETCH is off")
        return await call.fetch(url)

    async def _authorization(self, call: Call) -> str:
        try:
            async with asyncio.timeout(call.deadline.remaining_s()):
                return await self._key.authorization()
        except TimeoutError as error:
            raise time_is_up() from error

    def locate(self, value: str, task_id: int) -> str:
        """Returns the URL of a picture from the task's data."""
        if value.partition(":")[0] in STORAGE_SCHEMES:
            encoded = base64.urlsafe_b64encode(value.encode(errors="replace")).decode("ascii")
            return f"{self._site}/tasks/{task_id}/presign/?fileuri={encoded}"
        if value.startswith("upload/"):
            return f"{self._site}/data/{value}"
        if not value.startswith("/"):
            return value
        prefix = urlsplit(self._site).path  # if Label Studio is not at the server's root
        return f"{self._site}{value.removeprefix(prefix)}"
