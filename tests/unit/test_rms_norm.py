"""Ready norms give the numbers of transformers' own, and stand where those stood."""

from pathlib import Path

import pytest
import torch
from checkpoints import DEMO_MODEL_ID, make_random_checkpoint
from engines import load_checkpoint
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm

from paligemma_engine import EngineConfig
from paligemma_engine.device.runner import ModelRunner
from paligemma_engine.model.rms_norm import ReadyRmsNorm

HIDDEN = 192


@pytest.mark.parametrize("norm_class", [GemmaRMSNorm, Gemma2RMSNorm])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [0.0, 1e-3, 1.0, 300.0])
def test_the_numbers_are_those_of_transformers(norm_class: type, dtype: torch.dtype, size: float) -> None:
    """Weights that bfloat16 cannot add to 1 without rounding included."""
    torch.manual_seed(0)
    norm = norm_class(HIDDEN).to(dtype)
    torch.nn.init.normal_(norm.weight, std=0.3)
    states = (size * torch.randn(3, 7, HIDDEN)).to(dtype)
    with torch.inference_mode():
        torch.testing.assert_close(ReadyRmsNorm(norm)(states), norm(states), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("generation", "norms"), [(1, 2 * 4 + 1), (2, 4 * 4 + 1)])
def test_a_runner_has_no_other(models_dir: Path, tmp_path: Path, generation: int, norms: int) -> None:
    """Two runners on one checkpoint, as the second changes nothing more."""
    make_random_checkpoint(tmp_path / "random", models_dir / DEMO_MODEL_ID, generation=generation)
    checkpoint = load_checkpoint(EngineConfig(model_id="random", models_dir=tmp_path))
    for _ in range(2):
        ModelRunner(checkpoint, slots=1, max_new_tokens=8, grammar=True)
        kinds = [type(module) for module in checkpoint.model.model.language_model.modules()]
        assert kinds.count(ReadyRmsNorm) == norms
        assert not {GemmaRMSNorm, Gemma2RMSNorm} & set(kinds)
