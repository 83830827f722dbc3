"""The gateway's settings, one class, read from the environment."""

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gateway.fetching.addresses import Network

Switch = Literal["on", "off"]


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _read_networks(value: Any) -> Any:
    return [ip_network(part) if isinstance(part, str) else part for part in _split(value)]


Patterns = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Origins = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_read_networks)]


class Settings(BaseSettings):
    """Each field is the variable of the same name in capitals; lists are separated by commas.

    Attributes:
        gateway_host: address to listen on.
        gateway_port: port to listen on.
        triton_grpc_url: host and port of Triton's gRPC endpoint.
        triton_metrics_url: where Triton's metrics are.
        triton_keepalive_s: a Triton that is silent for so long while it has requests is asked whether it is there; if
            it does not answer for as long, its requests fail.
        model_id: the model that answers where a request names none; for the answers' `model_id` only.
        allowed_model_ids: patterns of what requests may ask for; the engine decides, the gateway only tells.
        api_keys_file: accepted keys, one a line, maybe with names; None lets everybody in.
        cors_origins: web origins whose pages may call the API.
        docs: whether /docs, /redoc and /openapi.json are served.
        traces: whether OpenTelemetry spans are recorded and their context is passed on to Triton.
        unknown_fields: whether fields of a request that there are not are refused or passed over.
        url_fetch: whether `image_url` may be an http or https URL.
        url_fetch_allowed_networks: networks that may be fetched from although they are not public.
        max_image_bytes: size of an encoded image.
        max_body_bytes_in_flight: of all requests that have not been answered; what goes beyond is refused.
        max_concurrent_requests: so many are served at once; others are refused.
        request_timeout_s: from a request's arrival to its answer.
        keep_alive_timeout_s: how long a connection may be idle between requests.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    gateway_host: str = "127.0.0.1"
    gateway_port: int = Field(default=8000, ge=1, le=65535)
    triton_grpc_url: str = "localhost:8011"
    triton_metrics_url: str = "http://localhost:8012/metrics"
    triton_keepalive_s: float = Field(default=10.0, gt=0)
    model_id: str = "google/paligemma2-3b-mix-448"
    allowed_model_ids: Patterns = ("google/paligemma*-mix-*",)
    api_keys_file: Path | None = None
    cors_origins: Origins = ()
    docs: Switch = "on"
    traces: Switch = "off"
    unknown_fields: Literal["refuse", "ignore"] = "refuse"
    url_fetch: Switch = "on"
    url_fetch_allowed_networks: Networks = ()
    max_image_bytes: int = Field(default=20_000_000, ge=1)
    max_body_bytes_in_flight: int = Field(default=1_000_000_000, ge=1)
    max_concurrent_requests: int = Field(default=64, ge=1)
    request_timeout_s: float = Field(default=60.0, gt=0)
    keep_alive_timeout_s: int = Field(default=75, ge=1)  # load balancers keep theirs for 60: theirs must end first
