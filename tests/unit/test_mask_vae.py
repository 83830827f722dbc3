"""The Flax VQ-VAE against an independent PyTorch one, and what happens to weights and codes that cannot be used."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_vae import TorchVae

from mask_vae import CheckpointError, InvalidCodes, MaskVae, MaskVaeConfig
from mask_vae.layout import array_shapes
from mask_vae.vae import OBJECT_BUCKETS

Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def witness() -> TorchVae:
    torch.manual_seed(0)
    vae = TorchVae().eval()
    with torch.inference_mode():
        vae.encoder[-1].weight.mul_(30)  # untrained, all masks would lie next to each other
        vectors = vae.encoder(2 * torch.from_numpy(random_masks(8, seed=7))[:, None] - 1)
        vae._vq_vae._embedding.copy_(vectors.permute(0, 2, 3, 1).reshape(128, 512))
    return vae


@pytest.fixture(scope="module")
def arrays(witness: TorchVae) -> Arrays:
    return {name: tensor.numpy() for name, tensor in witness.state_dict().items()}


@pytest.fixture(scope="module")
def vae(arrays: Arrays) -> MaskVae:
    return MaskVae(arrays)


@pytest.fixture(scope="module")
def demo_vae(models_dir: Path) -> MaskVae:
    return MaskVae.load(models_dir / "vae-demo.npz")


def random_codes(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 128, (count, 16), dtype=np.int32)


def random_masks(count: int, seed: int) -> np.ndarray:
    """Rectangles with noise."""
    generator = np.random.default_rng(seed)
    masks = generator.random((count, 64, 64), dtype=np.float32) * 0.2
    for mask in masks:
        top, left, height, width = generator.integers(4, 40, 4)
        mask[top : top + height, left : left + width] += 0.8
    return masks


def test_the_layout_is_that_of_the_published_file(arrays: Arrays, tmp_path: Path) -> None:
    """49 arrays; saved as npz they have the size of vae-oid.npz to the byte."""
    assert {name: array.shape for name, array in arrays.items()} == array_shapes()
    assert len(array_shapes()) == 49
    np.savez(tmp_path / "vae.npz", **arrays)
    assert (tmp_path / "vae.npz").stat().st_size == 8_479_556


@pytest.mark.parametrize("count", [1, 3, 8, 20])
def test_masks_equal_the_witness(vae: MaskVae, witness: TorchVae, count: int) -> None:
    codes = random_codes(count)
    with torch.inference_mode():
        expected = witness.decode(torch.from_numpy(codes).long()).numpy()
    masks = vae.decode(codes)
    assert (masks.shape, masks.dtype) == ((count, 64, 64), np.float32)
    np.testing.assert_allclose(masks, expected, atol=1e-4)


def test_codes_equal_the_witness(vae: MaskVae, witness: TorchVae) -> None:
    masks = random_masks(12, seed=1)
    with torch.inference_mode():
        expected = witness.encode(torch.from_numpy(masks)).numpy()
    codes = vae.encode(masks)
    assert codes.dtype == np.int32
    assert len(np.unique(codes)) > 4
    np.testing.assert_array_equal(codes, expected)


def test_witness_fails_where_codes_are_in_another_order(vae: MaskVae, witness: TorchVae) -> None:
    """A negative control: the comparison would see a grid read by columns."""
    codes = random_codes(2)
    by_columns = codes.reshape(-1, 4, 4).transpose(0, 2, 1).reshape(-1, 16)
    with torch.inference_mode():
        other = witness.decode(torch.from_numpy(by_columns.copy()).long()).numpy()
    assert np.abs(vae.decode(codes) - other).max() > 1e-3


def test_no_objects_are_no_masks(vae: MaskVae) -> None:
    assert vae.decode(np.zeros((0, 16), np.int32)).shape == (0, 64, 64)


def test_objects_without_mask_are_all_background_and_do_not_disturb_others(vae: MaskVae) -> None:
    codes = random_codes(5)
    codes[[0, 3]] = -1
    masks = vae.decode(codes)
    assert (masks[[0, 3]] == -1).all()
    np.testing.assert_allclose(masks[[1, 2, 4]], vae.decode(codes[[1, 2, 4]]), atol=1e-5)


@pytest.mark.parametrize(
    "codes",
    [
        np.zeros((2, 15), np.int32),
        np.zeros(16, np.int32),
        np.full((1, 16), 128, np.int32),
        np.full((1, 16), -2, np.int32),
        np.array([[0] * 15 + [-1]], np.int32),
    ],
)
def test_impossible_codes_are_refused(vae: MaskVae, codes: np.ndarray) -> None:
    with pytest.raises(InvalidCodes):
        vae.decode(codes)


def test_no_request_pays_for_a_compilation(vae: MaskVae) -> None:
    vae.warm_up()
    compiled = vae._decode._cache_size()
    assert compiled == len(OBJECT_BUCKETS)
    for count in (1, 2, 3, 5, 7, 8, 9, 40):
        vae.decode(random_codes(count))
    assert vae._decode._cache_size() == compiled


def test_the_demo_weights_reconstruct_masks(demo_vae: MaskVae) -> None:
    rows, columns = np.mgrid[0:64, 0:64]
    disc = ((rows - 31.5) ** 2 + (columns - 31.5) ** 2 < 30**2).astype(np.float32)
    mask = demo_vae.decode(demo_vae.encode(disc[None]))[0] > 0
    assert (mask & (disc > 0)).sum() / (mask | (disc > 0)).sum() > 0.95


def write(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez(path, **arrays)
    return path


def test_a_missing_file_says_which_variable_to_set(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.npz: no such file; set VAE_CHECKPOINT"):
        MaskVae.load(tmp_path / "nowhere.npz")


def test_a_missing_array_is_named(arrays: Arrays, tmp_path: Path) -> None:
    path = write(tmp_path / "vae.npz", {name: array for name, array in arrays.items() if name != "decoder.4.bias"})
    with pytest.raises(CheckpointError, match=r"decoder\.4\.bias is missing"):
        MaskVae.load(path)


def test_a_wrong_shape_is_named(arrays: Arrays, tmp_path: Path) -> None:
    path = write(tmp_path / "vae.npz", {**arrays, "decoder.4.bias": np.zeros(64, np.float32)})
    with pytest.raises(CheckpointError, match=r"decoder\.4\.bias has shape \(64,\), expected \(128,\)"):
        MaskVae.load(path)


@pytest.mark.parametrize(
    ("array", "message"),
    [(np.zeros(128, np.float64), "is float64, expected float32"), (np.full(128, np.nan, np.float32), "not finite")],
)
def test_wrong_values_are_named(arrays: Arrays, tmp_path: Path, array: np.ndarray, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        MaskVae.load(write(tmp_path / "vae.npz", {**arrays, "decoder.4.bias": array}))


def test_a_pickled_array_is_never_loaded(arrays: Arrays, tmp_path: Path) -> None:
    path = write(tmp_path / "vae.npz", {**arrays, "decoder.4.bias": np.array([print], dtype=object)})
    with pytest.raises(CheckpointError, match="not a readable npz file"):
        MaskVae.load(path)


@pytest.mark.parametrize("keep", [0, 10, 1000, 4_000_000, 8_479_000])
def test_a_cut_off_file_is_refused(arrays: Arrays, tmp_path: Path, keep: int) -> None:
    path = write(tmp_path / "vae.npz", arrays)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="not a readable npz file"):
        MaskVae.load(path)


def test_a_flipped_byte_is_refused(arrays: Arrays, tmp_path: Path) -> None:
    path = write(tmp_path / "vae.npz", arrays)
    damaged = bytearray(path.read_bytes())
    damaged[2_000_000] ^= 0xFF
    path.write_bytes(bytes(damaged))
    with pytest.raises(CheckpointError, match="not a readable npz file"):
        MaskVae.load(path)


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({}, "models/vae-oid.npz"),
        ({"MODEL_ID": "paligemma2-demo-224"}, "models/vae-demo.npz"),
        ({"MODEL_ID": "google/paligemma2-3b-mix-448", "MODELS_DIR": "/m", "MODEL_DIR": "/n"}, "/m/vae-oid.npz"),
        ({"MODEL_DIR": "/n", "VAE_CHECKPOINT": "own.npz"}, "/n/own.npz"),
    ],
)
def test_where_the_checkpoint_is(environ: dict[str, str], path: str) -> None:
    assert MaskVaeConfig.from_env(environ).checkpoint == Path(path)
