"""The choice of the next token, in the dtypes that a model can have."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from engines import demo_checkpoint
from torch import nn

from paligemma_engine.answers.grammar import Grammar
from paligemma_engine.model.greedy_head import GreedyHead

HIDDEN = 4


@pytest.fixture
def softcapped(models_dir: Path) -> GreedyHead:
    """A bfloat16 head whose logits are the first numbers of its weights; the demo vocabulary, without the grammar."""
    checkpoint = demo_checkpoint(models_dir)
    head = nn.Linear(HIDDEN, checkpoint.model.lm_head.out_features, bias=False, dtype=torch.bfloat16)
    nn.init.zeros_(head.weight)
    config = SimpleNamespace(final_logit_softcapping=30.0)
    model = SimpleNamespace(
        lm_head=head, device=torch.device("cpu"), config=SimpleNamespace(get_text_config=lambda: config)
    )
    return GreedyHead(model, Grammar.build(checkpoint.vocabulary, enabled=False))


def pick(greedy_head: GreedyHead, logits: dict[int, float]) -> tuple[int, float]:
    with torch.inference_mode():
        for token, logit in logits.items():
            greedy_head.lm_head.weight[token, 0] = logit
        hidden = torch.eye(HIDDEN, dtype=torch.bfloat16)[:1]
        tokens, logprobs, _ = greedy_head(hidden, torch.zeros(1, dtype=torch.long))
    return int(tokens), float(logprobs)


@pytest.mark.parametrize("least", [18.375, 22.0, 25.25])
def test_the_softcap_does_not_bring_logits_together(softcapped: GreedyHead, least: float) -> None:
    """Neighbours in bfloat16: capped in it, the first of them would be chosen, though the last one is larger."""
    neighbours = [least, least + 0.125, least + 0.25]
    tokens = range(700, 703)
    assert pick(softcapped, dict(zip(tokens, neighbours, strict=True)))[0] == tokens[-1]


def test_logprobs_are_those_of_the_float32_softcap(softcapped: GreedyHead) -> None:
    logits = torch.zeros(softcapped.lm_head.out_features)
    logits[5], logits[9] = 24.0, 25.125
    token, logprob = pick(softcapped, {5: 24.0, 9: 25.125})
    capped = 30.0 * torch.tanh(logits.double() / 30.0)
    assert token == 9
    assert logprob == pytest.approx(float(capped.log_softmax(-1)[9]), abs=1e-5)
