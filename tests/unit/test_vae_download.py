"""Fetching the mask decoder's weights from a local server: complete and as published, or not at all."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hub_server import HubServer, Repository

from mask_vae import CheckpointError, MaskVaeConfig, ensure_weights
from mask_vae.download import Published, fetch, published_weights

CONTENT = bytes(range(256)) * 4000
FILE = "vae-oid.npz"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr("mask_vae.download._PAUSE_S", 0.0)
    with HubServer() as server:
        server.repositories["org/vae"] = Repository({FILE: CONTENT})
        yield server


def published(hub: HubServer, *names: str) -> Published:
    urls = tuple(f"{hub.url}/{name}/resolve/main/{FILE}" for name in names or ("org/vae",))
    return Published(urls, len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def test_it_comes_from_the_first_place_that_has_it(hub: HubServer, tmp_path: Path) -> None:
    watched: list[int] = []
    fetch(published(hub, "org/gone", "org/vae"), tmp_path / "new" / FILE, watched.append)
    assert (tmp_path / "new" / FILE).read_bytes() == CONTENT
    assert watched[-1] == len(CONTENT)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [FILE]


def test_a_cut_download_goes_on(hub: HubServer, tmp_path: Path) -> None:
    hub.repositories["org/vae"].cuts = 2
    fetch(published(hub), tmp_path / FILE)
    assert (tmp_path / FILE).read_bytes() == CONTENT
    assert hub.ranges == [len(CONTENT) // 2, len(CONTENT) * 3 // 4]


def test_the_next_attempt_goes_on_where_the_last_one_failed(hub: HubServer, tmp_path: Path) -> None:
    hub.repositories["org/vae"].cuts = 3
    with pytest.raises(CheckpointError, match="cut off"):
        fetch(published(hub), tmp_path / FILE)
    assert not (tmp_path / FILE).exists()
    fetch(published(hub), tmp_path / FILE)
    assert (tmp_path / FILE).read_bytes() == CONTENT
    assert hub.ranges[-1] == len(CONTENT) * 7 // 8


def test_a_wrong_checksum_is_not_used(hub: HubServer, tmp_path: Path) -> None:
    hub.repositories["org/vae"].corrupt = True
    with pytest.raises(CheckpointError, match=r"wrong size or checksum .* put the file there yourself"):
        fetch(published(hub), tmp_path / FILE)
    assert not (tmp_path / FILE).exists()
    hub.repositories["org/vae"].corrupt = False
    fetch(published(hub), tmp_path / FILE)
    assert (tmp_path / FILE).read_bytes() == CONTENT


@pytest.mark.parametrize("difference", [-1, 1])
def test_a_wrong_size_is_not_used(hub: HubServer, tmp_path: Path, difference: int) -> None:
    wanted = published(hub)
    with pytest.raises(CheckpointError):
        fetch(replace(wanted, size=wanted.size + difference), tmp_path / FILE)
    assert not (tmp_path / FILE).exists()


def test_two_at_once_download_once(hub: HubServer, tmp_path: Path) -> None:
    hub.repositories["org/vae"].delay_s = 0.002
    threads = [threading.Thread(target=fetch, args=(published(hub), tmp_path / FILE)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / FILE).read_bytes() == CONTENT
    assert hub.requests[FILE] == 1
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_nowhere_to_be_had(hub: HubServer, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"org/gone/resolve/main/vae-oid.npz: status 401"):
        fetch(published(hub, "org/gone"), tmp_path / FILE)


def test_only_the_published_file_is_fetched(tmp_path: Path) -> None:
    for config in (MaskVaeConfig(tmp_path / "own.npz"), MaskVaeConfig(tmp_path / FILE, offline=True)):
        assert ensure_weights(config) == config.checkpoint
        assert not config.checkpoint.exists()


def test_a_file_of_that_name_must_be_the_published_one(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(CONTENT)
    with pytest.raises(CheckpointError, match="is not the published file"):
        ensure_weights(MaskVaeConfig(tmp_path / FILE))


def test_where_it_is_published() -> None:
    wanted = published_weights("http://mirror")
    assert wanted.urls[0].startswith("https://storage.googleapis.com/big_vision/")
    assert wanted.urls[1] == "http://mirror/spaces/big-vision/paligemma/resolve/main/vae-oid.npz"


def test_settings() -> None:
    read = MaskVaeConfig.from_env
    assert read({}) == MaskVaeConfig(Path("models/vae-oid.npz"), compiled=Path("models/compiled"))
    assert read({"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://mirror/"}) == MaskVaeConfig(
        Path("models/vae-oid.npz"), hub="http://mirror", offline=True, compiled=Path("models/compiled")
    )
