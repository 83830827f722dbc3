"""Finds the files of a checkpoint: in a folder under models_dir, in the hub's local cache, or by a download into it.

    folder under MODELS_DIR  ->  local cache  ->  download, with a token if there is one  ->  an error that says why

Downloads are verified against the hub's digests before they are used: the hub's library compares only sizes. A marker
file exists from before the download until after the check, so that files of an interrupted download are checked again.
"""

import contextlib
import hashlib
import logging
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from huggingface_hub import HfApi, get_cached_repo_tree, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.constants import is_offline_mode
from huggingface_hub.errors import CachedRepoTreeNotFoundError, RemoteEntryNotFoundError
from huggingface_hub.file_download import repo_folder_name

from paligemma_engine.checkpoints.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CONFIG,
    CheckpointSize,
    check_architecture,
    missing_weights,
)
from paligemma_engine.checkpoints.hub_errors import explain
from paligemma_engine.checkpoints.model_id import ModelId
from paligemma_engine.config import HUB_CACHE_FOLDER, EngineConfig
from paligemma_engine.errors import HubFailed, ModelFailed, ModelNotFound

_log = logging.getLogger(__name__)

OnFound = Callable[[Path, CheckpointSize], None]

# Pickle files and code are not downloaded.
FILES: Final = ("*.json", "model*.safetensors", ADAPTER_WEIGHTS, "tokenizer.model", "*.jinja")
NO_FOLDERS: Final = ("*/*",)  # mirrors keep other formats there
UNCHECKED: Final = ".unchecked"  # the mark, in the repository's folder of the cache

_SHA256_DIGITS: Final = 64  # the cache names a large file by its sha256, a small one by git's sha1
_SHA1_DIGITS: Final = 40
_CHUNK_BYTES: Final = 1 << 20
_LARGEST_NUMBER_BYTES: Final = 4  # float32


def find_checkpoint(config: EngineConfig, on_found: OnFound = lambda _folder, _size: None) -> Path:
    """Returns the folder of `config.model_id`; downloads it if needed.

    Args:
        config: settings.
        on_found: as `download`.

    Raises:
        ModelNotFound: the hub has no such model or revision.
        ModelGated: the hub wants a token, or a licence to be accepted.
        ModelFailed: the files are not a PaliGemma checkpoint in safetensors.
        HubFailed: the hub cannot be reached, or its files differ from their listed digests.
    """
    if (folder := find_here(config)) is not None:
        return folder
    wanted = ModelId.parse(config.model_id)
    return download(wanted, models_dir=config.models_dir, token=config.hf_token, on_found=on_found)


def find_here(config: EngineConfig) -> Path | None:
    """Returns the folder of `config.model_id`; None if it must be downloaded first.

    Raises:
        ModelNotFound: there is no such folder, and this is no hub id.
        ModelFailed: what is there is no PaliGemma checkpoint in safetensors.
    """
    folder = config.models_dir / config.model_id
    if folder.is_dir():
        check_architecture(config.model_id, folder)
        if missing := missing_weights(folder):
            raise ModelFailed(f"{config.model_id} has no {missing} in its folder; only safetensors are read")
        return folder
    wanted = ModelId.parse(config.model_id)
    if "/" not in wanted.name:
        raise ModelNotFound(f"{wanted} is no folder under {config.models_dir}; name one, or a hub id such as org/name")
    cached = _cached(wanted, config.models_dir / HUB_CACHE_FOLDER)
    if cached is not None:
        check_architecture(config.model_id, cached)
    return cached


def download(
    wanted: ModelId,
    *,
    models_dir: Path,
    token: str | None,
    on_found: OnFound = lambda _folder, _size: None,
) -> Path:
    """Downloads the files that are missing, or newer on the hub, and verifies them.

    Complete files of an earlier attempt are kept; after a broken connection a file is resumed.

    Args:
        wanted: which checkpoint.
        models_dir: holds the cache.
        token: None for the hub's own token file, and without one for a public download.
        on_found: called before the weights are downloaded, with the folder of config.json and the weights' size from
            the hub; an exception of it ends the download.

    Returns:
        The folder of the files.

    Raises:
        EngineError: as `find_checkpoint`.
    """
    cache = models_dir / HUB_CACHE_FOLDER
    source: dict[str, Any] = {
        "repo_id": wanted.name,
        "revision": wanted.revision,
        "cache_dir": cache,
        "token": token,
    }
    mark = _mark(wanted, cache)
    earlier = _blobs(mark)
    if not is_offline_mode():
        _log.info("downloading %s", wanted)
    try:
        # config.json first: a checkpoint of another architecture is refused before gigabytes are downloaded.
        folder = _download_config(source)
        check_architecture(str(wanted), folder)
        on_found(folder, _size_on_hub(source))
        mark.write_text("\n".join(sorted(earlier)))
        folder = Path(snapshot_download(**source, allow_patterns=list(FILES), ignore_patterns=list(NO_FOLDERS)))
        _check_digests(wanted, folder, earlier)
    except Exception as error:  # the library's own, its HTTP client's, the disk's
        raise explain(wanted, error) from error
    if missing := missing_weights(folder):
        if _is_on_hub(missing, wanted, cache):
            raise HubFailed(
                f"{wanted} is incomplete in the local cache, and the hub cannot be reached; try again later"
            )
        raise ModelFailed(f"{wanted} has no {missing} on the hub; only safetensors are read")
    mark.unlink(missing_ok=True)
    return folder


def _download_config(source: dict[str, Any]) -> Path:
    """Downloads config.json (or the adapter's) and returns its folder."""
    for name in (CONFIG, ADAPTER_CONFIG):
        with contextlib.suppress(RemoteEntryNotFoundError):
            return Path(hf_hub_download(filename=name, **source)).parent
    raise ModelFailed(f"{source['repo_id']} has no {CONFIG}; this server serves PaliGemma checkpoints")


def _size_on_hub(source: dict[str, Any]) -> CheckpointSize:
    """Returns the sizes that the hub lists; zeros if it lists none. The download reports a hub that is not reached."""
    name, cache = source["repo_id"], source["cache_dir"]
    try:
        info = HfApi().model_info(name, revision=source["revision"], token=source["token"], files_metadata=True)
    except Exception as error:  # the library's own, its HTTP client's
        _log.info("the hub does not say how large %s is (%s)", name, type(error).__name__)
        return CheckpointSize(0, 0)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    files = {file for file in sizes if "/" not in file and any(fnmatchcase(file, pattern) for pattern in FILES)}
    here = {file for file in files if isinstance(try_to_load_from_cache(name, file, cache, revision=info.sha), str)}
    weight_bytes = sum(sizes[file] for file in files if file.endswith(".safetensors"))
    return CheckpointSize(
        numbers=info.safetensors.total if info.safetensors else weight_bytes // _LARGEST_NUMBER_BYTES,
        weight_bytes=weight_bytes,
        download_bytes=sum(sizes[file] for file in files - here),
    )


def _cached(wanted: ModelId, cache: Path) -> Path | None:
    """Returns the cached snapshot if it is complete and verified."""
    for name in (CONFIG, ADAPTER_CONFIG):
        path = try_to_load_from_cache(wanted.name, name, cache_dir=cache, revision=wanted.revision)
        if isinstance(path, str) and not _mark(wanted, cache).exists() and missing_weights(Path(path).parent) is None:
            return Path(path).parent
    return None


def _mark(wanted: ModelId, cache: Path) -> Path:
    return cache / repo_folder_name(repo_id=wanted.name, repo_type="model") / UNCHECKED


def _blobs(mark: Path) -> set[str]:
    """Returns the names of the files that were in a repository's cache folder before our download."""
    if mark.exists():  # written by an attempt that is running or has failed
        return set(mark.read_text().split())
    folder = mark.with_name("blobs")
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _is_on_hub(name: str, wanted: ModelId, cache: Path) -> bool:
    """Whether the hub lists a file, or cannot be asked: an offline download returns the cached files."""
    try:
        listed = get_cached_repo_tree(wanted.name, revision=wanted.revision, cache_dir=cache)
    except CachedRepoTreeNotFoundError:
        return True
    return any(file.path == name for file in listed)


def _check_digests(wanted: ModelId, folder: Path, earlier: set[str]) -> None:
    """Compares the files with the digests in their cache names; removes damaged ones that we downloaded.

    Args:
        wanted: which checkpoint.
        folder: of its files.
        earlier: names of the blobs that existed before; the cache may be shared with other programs.

    Raises:
        HubFailed: some are damaged.
    """
    damaged = sorted(path for path in folder.iterdir() if not _is_intact(path))
    ours = [path for path in damaged if path.resolve().name not in earlier]
    for path in ours:
        path.resolve().unlink()
        path.unlink()
    if theirs := [path for path in damaged if path not in ours]:
        paths = ", ".join(str(path.resolve()) for path in theirs)
        raise HubFailed(f"{wanted} is damaged in the local cache; delete {paths} and try again")
    if ours:
        names = ", ".join(path.name for path in ours)
        raise HubFailed(f"{wanted}: {names} came with a wrong checksum and was thrown away; try again")


def _is_intact(path: Path) -> bool:
    """Compares a file's digest with the name of the blob that it links to; True if the cache has no links."""
    expected = path.readlink().name if path.is_symlink() else ""
    if len(expected) == _SHA256_DIGITS:
        digest = hashlib.sha256()
    elif len(expected) == _SHA1_DIGITS:
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    else:
        return True
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest() == expected
