"""The engine's settings, one dataclass."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

DEFAULT_MODEL_ID: Final = "google/paligemma2-3b-mix-448"
HUB_CACHE_FOLDER: Final = "huggingface"
HF_TOKEN_SECRET: Final = Path("/run/secrets/hf_token")
DTYPES: Final = ("auto", "float32", "bfloat16", "float16")
CUDA_GRAPHS: Final = ("auto", "on", "off")
QUANTIZATIONS: Final = ("off", "8bit", "4bit")
MIN_PREPARATION_WORKERS: Final = 2
MAX_PREPARATION_WORKERS: Final = 8
FEATURE_CACHE_BYTES_ON_CPU: Final = 64_000_000
FEATURE_CACHE_BYTES_ON_GPU: Final = 256_000_000  # some 50 pictures of the 3B at 448 px


class ConfigError(ValueError):
    """A setting's value cannot be used; the message names the variable."""


def default_preparation_workers() -> int:
    """One for each core, within bounds: two hide each other's waits, and each may hold an image of MAX_IMAGE_PIXELS."""
    cores = len(os.sched_getaffinity(0))
    return min(max(cores, MIN_PREPARATION_WORKERS), MAX_PREPARATION_WORKERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Settings of one engine.

    Attributes:
        model_id: hub id, or the name of a folder under models_dir.
        models_dir: weights, and the hub's cache under `huggingface/`.
        hf_token: token for gated checkpoints, None for none; a secret, never logged.
        device: a torch device, such as `cpu` or `cuda:0`.
        dtype: what weights are loaded and steps computed in; `auto`: as dtypes.py decides.
        quantization: `8bit` or `4bit` weights in the text model, or `off`; dtype is what is computed in.
        max_slots: rows of the decode batch, that is, how many sequences run at once; None: as memory_plan.py decides.
        max_pending: requests that may wait beyond those that run.
        max_new_tokens: what a request may ask for, and what it gets when it asks for nothing.
        preparation_workers: how many images are decoded and prompts tokenized at once; each holds a decoded image.
        feature_cache_bytes: how much of the vision tower's output is kept for further prompts on the same pictures;
            also bounds what is kept of prepared pictures.
        cuda_graphs: whether steps on a GPU are captured in CUDA graphs; `auto`: where that works.
        compile: whether torch.compile fuses the steps.
        grammar: whether `segment` and `detect` answers are kept well-formed while they are generated.
        max_image_bytes: size of an encoded image.
        max_image_pixels: width times height, as declared in the image's header.
        heartbeat_dir: where to leave signs of life for a supervisor; None for nowhere.
        instance: name of this engine among those of the server; labels its metrics.
        allowed_model_ids: patterns of the ids that requests may name beside model_id.
        max_extra_models: how many others may be in memory beside model_id; 0 for none.
    """

    model_id: str = DEFAULT_MODEL_ID
    models_dir: Path = Path("models")
    hf_token: str | None = field(default=None, repr=False)
    device: str = "cpu"
    dtype: str = "auto"
    quantization: str = "off"
    max_slots: int | None = None
    max_pending: int = 256
    max_new_tokens: int = 256
    preparation_workers: int = field(default_factory=default_preparation_workers)
    feature_cache_bytes: int = FEATURE_CACHE_BYTES_ON_CPU
    cuda_graphs: str = "auto"
    compile: bool = False
    grammar: bool = True
    max_image_bytes: int = 20_000_000
    max_image_pixels: int = 40_000_000
    heartbeat_dir: Path | None = None
    instance: str = "0"
    allowed_model_ids: tuple[str, ...] = ("google/paligemma*-mix-*",)
    max_extra_models: int = 1

    @classmethod
    def from_env(cls, environ: Mapping[str, str], *, device: str = "cpu", instance: str = "0") -> Self:
        """Reads the variables of docs/reference/settings.md.

        Raises:
            ConfigError: a value of the wrong kind.
        """
        default = cls(feature_cache_bytes=FEATURE_CACHE_BYTES_ON_CPU if device == "cpu" else FEATURE_CACHE_BYTES_ON_GPU)
        heartbeat_dir = environ.get("HEARTBEAT_DIR")
        return cls(
            model_id=environ.get("MODEL_ID") or default.model_id,
            models_dir=Path(environ.get("MODELS_DIR") or environ.get("MODEL_DIR") or default.models_dir),
            hf_token=_hf_token(environ),
            device=device,
            dtype=_choice(environ, "DTYPE", DTYPES, default.dtype),
            quantization=_choice(environ, "QUANTIZATION", QUANTIZATIONS, default.quantization),
            max_slots=_count(environ, "MAX_SLOTS", 0, auto=True) or None,
            max_pending=_count(environ, "MAX_PENDING", default.max_pending),
            max_new_tokens=_count(environ, "MAX_NEW_TOKENS", default.max_new_tokens),
            preparation_workers=_count(environ, "PREPARATION_WORKERS", default.preparation_workers, auto=True),
            feature_cache_bytes=_count(environ, "FEATURE_CACHE_BYTES", default.feature_cache_bytes, auto=True, least=0),
            cuda_graphs=_choice(environ, "CUDA_GRAPHS", CUDA_GRAPHS, default.cuda_graphs),
            compile=_switch(environ, "COMPILE", default.compile),
            grammar=_switch(environ, "GRAMMAR", default.grammar),
            max_image_bytes=_count(environ, "MAX_IMAGE_BYTES", default.max_image_bytes),
            max_image_pixels=_count(environ, "MAX_IMAGE_PIXELS", default.max_image_pixels),
            heartbeat_dir=Path(heartbeat_dir) if heartbeat_dir else None,
            instance=instance,
            allowed_model_ids=_list(environ, "ALLOWED_MODEL_IDS", default.allowed_model_ids),
            max_extra_models=_count(environ, "MAX_EXTRA_MODELS", default.max_extra_models, least=0),
        )


def _hf_token(environ: Mapping[str, str]) -> str | None:
    """HF_TOKEN, else the file that HF_TOKEN_PATH names, else the container's secret; None: the hub's own file."""
    if token := environ.get("HF_TOKEN", "").strip():
        return token
    for path in (environ.get("HF_TOKEN_PATH"), HF_TOKEN_SECRET):
        if path and Path(path).is_file():
            return Path(path).read_text(encoding="utf-8").strip() or None
    return None


def _count(environ: Mapping[str, str], name: str, default: int, *, auto: bool = False, least: int = 1) -> int:
    text = environ.get(name, "").strip()
    if not text or (auto and text == "auto"):
        return default
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}, not {text!r}")
    return int(text)


def _switch(environ: Mapping[str, str], name: str, default: bool) -> bool:
    return _choice(environ, name, ("on", "off"), "on" if default else "off") == "on"


def _list(environ: Mapping[str, str], name: str, default: tuple[str, ...]) -> tuple[str, ...]:
    if name not in environ:
        return default
    return tuple(part.strip() for part in environ[name].split(",") if part.strip())


def _choice(environ: Mapping[str, str], name: str, choices: tuple[str, ...], default: str) -> str:
    text = environ.get(name, "").strip().lower() or default
    if text not in choices:
        raise ConfigError(f"{name} must be one of {', '.join(choices)}, not {text!r}")
    return text
