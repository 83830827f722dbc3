"""The gateway's settings, one class, read from the environment."""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Each field is the variable of the same name in capitals; the README's table explains them."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    gateway_host: str = "127.0.0.1"
    gateway_port: int = Field(default=8000, ge=1, le=65535)
    triton_grpc_url: str = "localhost:8011"
    model_id: str = "google/paligemma2-3b-mix-448"
    docs: Literal["on", "off"] = "on"
    max_image_bytes: int = Field(default=20_000_000, ge=1)
    request_timeout_s: float = Field(default=60.0, gt=0)
