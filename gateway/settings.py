"""The gateway's settings, read from environment variables."""

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx2
from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gateway.fetching.addresses import Network
from gateway.triton.replicas.addresses import Targets, read_targets

Switch = Literal["on", "off"]


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _read_networks(value: Any) -> Any:
    return [ip_network(part) if isinstance(part, str) else part for part in _split(value)]


def _check_targets(value: str) -> str:
    read_targets(value)
    return value


def _check_site(url: str) -> str:
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise ValueError("not a URL; write one such as http://label-studio:8080") from error
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo or parsed.query:
        raise ValueError("write the URL of a server, without a user or a query, such as http://label-studio:8080")
    return url.rstrip("/")


def header_key(text: str) -> str:
    """The key in a text, without the space around it; raises ValueError, without the text, if no header can hold it."""
    key = text.strip()
    if not key:
        raise ValueError("there is no key; write one")
    if not (key.isascii() and key.isprintable()):  # an HTTP library's error would hold the header
        raise ValueError("the key is not one line of printable ASCII characters; write it alone")
    return key


def _check_secret(secret: SecretStr) -> SecretStr:
    return SecretStr(header_key(secret.get_secret_value()))


def _check_secret_file(path: Path) -> Path:
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"the file cannot be read: {type(error).__name__}") from error
    except UnicodeDecodeError:
        content = "\N{REPLACEMENT CHARACTER}"
    header_key(content)
    return path


Patterns = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_read_networks)]
Site = Annotated[str, AfterValidator(_check_site)]
HeaderKey = Annotated[SecretStr, AfterValidator(_check_secret)]
SecretFile = Annotated[Path, AfterValidator(_check_secret_file)]


TargetsText = Annotated[str, AfterValidator(_check_targets)]


class Settings(BaseSettings):
    """Each field is read from the variable of the same name in capitals; list items are separated by commas.

    Attributes:
        gateway_host: address to listen on.
        gateway_port: port to listen on.
        triton_grpc_url: host and port of Triton's gRPC endpoint; several with commas, or dns:///name:port.
        triton_metrics_url: URL of Triton's metrics, several with commas; its host is replaced by the replicas' own
            where triton_grpc_url is a name.
        triton_keepalive_s: while requests run, Triton is pinged after this many seconds of silence; if it does not
            answer for as long again, the requests fail.
        model_id: the server's default model, as answers and the list of models name it; it is not sent to Triton.
        allowed_model_ids: patterns of model ids that requests may name; the gateway lists them, the engine enforces.
        api_keys_file: accepted keys, one per line, optionally with names; None disables authentication.
        cors_origins: web origins whose pages may call the API.
        demo: whether /demo, the page to try the service, is served, and / sends browsers there.
        docs: whether /docs, /redoc and /openapi.json are served.
        traces: whether OpenTelemetry spans are recorded and their context is passed to Triton.
        unknown_fields: whether unknown fields of a request are refused or ignored.
        url_fetch: whether `image_url` may be an http or https URL.
        url_fetch_allowed_networks: networks that `image_url` may reach even though they are not public.
        label_studio_url: the Label Studio that this gateway is a machine learning backend of; None for none. Images may
            be fetched from there even if its address is not public.
        label_studio_api_key: a user's key of that Label Studio, for its images.
        label_studio_api_key_file: a file that holds the key, where `label_studio_api_key` is not set.
        max_image_bytes: largest encoded image.
        max_body_bytes_in_flight: largest total of the bodies of unanswered requests; requests beyond it are refused.
        max_concurrent_requests: most requests served at once; requests beyond it are refused.
        request_timeout_s: longest time from a request's arrival to its answer.
        keep_alive_timeout_s: longest time that a connection may be idle between requests.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True, hide_input_in_errors=True)

    gateway_host: str = "127.0.0.1"
    gateway_port: int = Field(default=8000, ge=1, le=65535)
    triton_grpc_url: TargetsText = "localhost:8011"
    triton_metrics_url: str = "http://localhost:8012/metrics"
    triton_keepalive_s: float = Field(default=10.0, gt=0)
    model_id: str = "google/paligemma2-3b-mix-448"
    allowed_model_ids: Patterns = ("google/paligemma*-mix-*",)
    api_keys_file: Path | None = None
    cors_origins: Origins = ()
    demo: Switch = "on"
    docs: Switch = "on"
    traces: Switch = "off"
    unknown_fields: Literal["refuse", "ignore"] = "refuse"
    url_fetch: Switch = "on"
    url_fetch_allowed_networks: Networks = ()
    label_studio_url: Site | None = None
    label_studio_api_key: HeaderKey | None = None
    label_studio_api_key_file: SecretFile | None = None
    max_image_bytes: int = Field(default=20_000_000, ge=1)
    max_body_bytes_in_flight: int = Field(default=1_000_000_000, ge=1)
    max_concurrent_requests: int = Field(default=64, ge=1)
    request_timeout_s: float = Field(default=60.0, gt=0)
    keep_alive_timeout_s: int = Field(default=75, ge=1)  # must exceed a load balancer's idle timeout, usually 60 s

    @property
    def triton_targets(self) -> Targets:
        """Where the replicas are, as `triton_grpc_url` says."""
        return read_targets(self.triton_grpc_url)

    @property
    def triton_metrics_urls(self) -> tuple[str, ...]:
        """The URLs in `triton_metrics_url`."""
        return tuple(_split(self.triton_metrics_url))
