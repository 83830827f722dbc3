"""How the demo model is trained: tokens, targets, losses that fall, runs that go on, and what is written at the end."""

import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import Transformers
from engines import load_checkpoint
from PIL import Image
from step_clock import StepClock

from paligemma_engine import EngineConfig
from paligemma_tokens import parse_sequence
from parts.training import paligemma_training
from parts.training.answers import AnswerTokens
from parts.training.batches import FIRST_TRAINING_SEED, Asked, Batch, Batches, Diet, Picture
from parts.training.batches import picture as draw_picture
from parts.training.export import export
from parts.training.losses import make_targets, patch_labels
from parts.training.names import KINDS
from parts.training.network import Architecture
from parts.training.paligemma_training import PaliGemmaTraining
from parts.training.progress import Run
from parts.training.sampling import SceneStyle
from parts.training.stages import ANSWERS, SELECTION, VISION, Stage, stages
from parts.training.vae import TorchMaskVae
from parts.training.vocabulary import make_tokenizer

TINY = Architecture(width=32, heads=2, kv_heads=1, vision_layers=1, vision_mlp=32, text_layers=2, text_mlp=32)
FEW = Diet(pictures=3, prompts=2, several_share=0.5)
STAGES = [
    Stage(name=part, trains=part, until=until, rate=3e-3, diet=FEW)
    for part, until in ((VISION, 0.3), (SELECTION, 0.6), (ANSWERS, 1.0))
]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


@pytest.fixture(scope="module")
def vae(models_dir: Path) -> TorchMaskVae:
    return TorchMaskVae.load(models_dir / "vae-demo.npz")


@pytest.fixture
def few_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paligemma_training, "stages", lambda *, warm: STAGES)
    monkeypatch.setattr(paligemma_training, "_LOG_STEPS", 1)
    monkeypatch.setitem(paligemma_training._WORKERS, "cpu", 0)  # a fork beside JAX's threads is refused
    monkeypatch.setattr("parts.training.progress.time", StepClock())


def batch_of(asked: list[Asked], boxes: list[list[float]]) -> Batch:
    count = len(boxes)
    return Batch(
        pixels=torch.zeros((1, 3, 224, 224), dtype=torch.uint8),
        crops=torch.ones(count, 64, 64),
        boxes=torch.tensor(boxes),
        shares=torch.ones(count, 64),
        pictures=torch.zeros(count, dtype=torch.long),
        kinds=torch.arange(count),
        colours=torch.zeros(count, dtype=torch.long),
        asked=asked,
    )


def train(folder: Path, hours: float, vae: TorchMaskVae, *, warm_from: Path | None = None) -> PaliGemmaTraining:
    run = Run(folder, hours)
    training = PaliGemmaTraining(run, seed=1, architecture=TINY, vae=vae, warm_from=warm_from, device="cpu")
    training.train()
    return training


def drawn_picture(seed: int) -> Picture:
    return draw_picture(seed, SceneStyle(), 224)


def curve(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]


def test_words_are_tokens_and_other_words_are_letters(tokenizer: Any) -> None:
    def tokens(text: str) -> list[str]:
        made: list[str] = tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False).input_ids)
        return made

    assert tokens("Segment Red car ; DOGS") == ["segment", "▁red", "▁car", "▁;", "▁dogs"]
    assert tokens("segment ox") == ["segment", "▁", "o", "x"]
    assert tokens("<loc0003><seg127> car") == ["<loc0003>", "<seg127>", "▁car"]


@pytest.mark.parametrize(("task", "has_masks"), [("segment", True), ("detect", False)])
def test_answers_are_what_the_parser_reads(tokenizer: Any, task: str, has_masks: bool) -> None:
    boxes = [[0.0, 0.1, 0.5, 0.6], [0.25, 0.5, 1.0, 0.75]]
    batch = batch_of([Asked(0, task, "red car ; dog", (1, 0), "several"), Asked(0, task, "ox", (), "absent")], boxes)
    codes = torch.arange(32).reshape(2, 16)
    tokens = AnswerTokens(tokenizer, image_size=224)
    token_ids, lengths, labels = tokens.sequences(batch, codes)
    assert tokenizer.decode(token_ids[0, 1 : lengths[0]]) == f"{task} red car ; dog\n"
    answers = [row[row >= 0].tolist() for row in labels]
    assert answers[1] == [tokens.eos]
    assert answers[0][-1] == tokens.eos
    texts = [tokenizer.decode([token]) for token in answers[0][:-1]]
    parsed = parse_sequence(texts, [0.0] * len(texts))
    assert [found.box_xyxy for found in parsed] == [
        pytest.approx((box[1], box[0], box[3], box[2]), abs=0.5 / 224 + 1e-3) for box in reversed(boxes)
    ]
    assert [found.codes for found in parsed] == [tuple(row.tolist()) if has_masks else None for row in codes.flip(0)]
    assert [found.label for found in parsed] == ([""] * 2 if has_masks else ["red car", "dog"])


def test_each_answer_token_is_learned_from_the_one_before(tokenizer: Any) -> None:
    batch = batch_of([Asked(0, "segment", "dog", (0,), "name")], [[0.0, 0.0, 1.0, 1.0]])
    token_ids, lengths, labels = AnswerTokens(tokenizer, image_size=224).sequences(
        batch, torch.zeros(1, 16, dtype=torch.long)
    )
    learned = (labels[0] >= 0).nonzero().flatten()
    assert learned.tolist() == list(range(int(lengths[0]) - 1, token_ids.shape[1] - 1))
    assert torch.equal(labels[0, learned], token_ids[0, learned + 1])


def test_soft_targets_are_largest_at_the_right_token_and_spread_over_near_ones(
    tokenizer: Any, vae: TorchMaskVae
) -> None:
    tokens = AnswerTokens(tokenizer, image_size=224)
    soft = tokens.soft_targets(vae.codebook)
    torch.testing.assert_close(soft.sum(1), torch.ones(len(soft)))
    assert torch.equal(soft.argmax(1), torch.arange(len(soft)))
    (middle,) = tokens.loc_bins(torch.tensor([0.5])).tolist()
    row = soft[tokens.first_loc + middle, tokens.first_loc : tokens.first_loc + 1024]
    near = (row > 1e-4).nonzero().flatten()
    assert (near.diff() >= 4).all()  # a pixel of 224 is 4.6 bins
    assert len(near) >= 3
    assert row[middle] > 0.5  # likely enough to win against the end of the answer
    assert soft[tokens.eos, tokens.eos] == 1


def test_batches_are_repeatable_and_what_they_say_is_in_the_picture(tokenizer: Any) -> None:
    batches = Batches(replace(FEW, pictures=8, plain_share=0.5), seed=7, image_size=224, grid=8, count=10)
    batch, again, other = batches[3], batches[3], batches[4]
    assert torch.equal(batch.pixels, again.pixels)
    assert batch.asked == again.asked
    assert not torch.equal(batch.pixels, other.pixels)
    targets = make_targets(
        batch,
        torch.zeros(len(batch.boxes), 16, dtype=torch.long),
        torch.eye(len(tokenizer)),
        AnswerTokens(tokenizer, image_size=224),
    )
    rows = (torch.arange(64) // 8 + 0.5) / 8
    centres = (batch.boxes[:, 0] + batch.boxes[:, 2]) / 2
    torch.testing.assert_close(targets.pooling @ rows, centres, atol=0.1, rtol=0)
    kinds, colours = patch_labels(batch, torch.Size((8, 64)))
    for index, picture in enumerate(batch.pictures.tolist()):
        assert batch.kinds[index] in kinds[picture]
        assert batch.colours[index] in colours[picture]
    assert (kinds == len(KINDS)).float().mean() > 0.3
    assert all(batch.pictures[target] == asked.picture for asked in batch.asked for target in asked.targets)


def test_training_never_meets_the_scenes_of_tests() -> None:
    seeds: list[int] = []
    batches = Batches(FEW, seed=FIRST_TRAINING_SEED + 1, image_size=224, grid=8, count=10)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("picture", "plain_picture"):
            patch.setattr(f"parts.training.batches.{name}", lambda seed, *_: seeds.append(seed) or drawn_picture(3))
        batches[0]
    assert len(seeds) == FEW.pictures
    assert min(seeds) >= FIRST_TRAINING_SEED


def test_every_stage_learns(vae: TorchMaskVae, few_stages: None, tmp_path: Path) -> None:
    train(tmp_path, 40 / 3600, vae)
    lines = curve(tmp_path)
    assert [line["phase"] for line in lines] == sorted(
        (line["phase"] for line in lines), key=[VISION, SELECTION, ANSWERS].index
    )
    for part in (VISION, SELECTION, ANSWERS):
        losses = [line["loss"] for line in lines if line["phase"] == part]
        assert len(losses) >= 10
        assert np.mean(losses[-3:]) < np.mean(losses[:2])


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    vae: TorchMaskVae, few_stages: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole", 12 / 3600, vae)
    with monkeypatch.context() as patch:
        steps = Run.steps

        def interrupted(self: Run, name: str, until: float = 1.0) -> Any:
            for step in steps(self, name, until):
                yield step
                if self.step == 7:
                    self._stop(15, None)

        patch.setattr(Run, "steps", interrupted)
        train(tmp_path / "halves", 12 / 3600, vae)
    assert [line["step"] for line in curve(tmp_path / "halves")] == list(range(8))
    halves = train(tmp_path / "halves", 12 / 3600, vae)
    assert [line["loss"] for line in curve(tmp_path / "halves")] == [line["loss"] for line in curve(tmp_path / "whole")]
    for name, weight in whole.averaged_model().state_dict().items():
        torch.testing.assert_close(halves.averaged_model().state_dict()[name], weight, msg=name)


def test_an_exported_model_is_served_and_answers_as_it_was_trained_to(
    vae: TorchMaskVae, few_stages: None, tmp_path: Path
) -> None:
    """Its own forward pass, which training uses, agrees with transformers' on the written files."""
    training = train(tmp_path / "state", 4 / 3600, vae)
    model = training.averaged_model()
    export(model, training.tokenizer, TINY, tmp_path / "tiny")
    checkpoint = load_checkpoint(EngineConfig(model_id="tiny", models_dir=tmp_path))
    assert checkpoint.image_token_count == TINY.grid**2
    assert all(stat.S_IMODE(file.stat().st_mode) == 0o644 for file in (tmp_path / "tiny").iterdir())
    picture = drawn_picture(3)
    transformers = Transformers(tmp_path / "tiny")
    reference = transformers.generate(Image.fromarray(picture.pixels), "segment red car", 3)
    prefix = AnswerTokens(training.tokenizer, image_size=224).prefix(Asked(0, "segment", "red car", (), "name"))
    network = training.network.eval()
    pixels = torch.from_numpy(picture.pixels).permute(2, 0, 1)[None]
    answered: list[int] = []
    with torch.no_grad():
        for _ in reference.token_ids:
            token_ids = torch.tensor([prefix + answered])
            hidden = network.read(
                network.encode_images(pixels), token_ids, torch.tensor([len(prefix)]), layers=TINY.text_layers
            )
            answered.append(int(network.logits(hidden[-1])[0, -1].argmax()))
    assert answered == reference.token_ids
    assert len(answered) == 3


def test_a_warm_start_keeps_what_both_know(
    vae: TorchMaskVae, few_stages: None, tmp_path: Path, models_dir: Path
) -> None:
    old = models_dir / "paligemma2-demo-224"
    run = Run(tmp_path, 1)
    training = PaliGemmaTraining(run, seed=1, architecture=Architecture(), vae=vae, warm_from=old, device="cpu")
    before = Transformers(old)
    rows = training.network.model.get_input_embeddings().weight
    old_rows = before.model.get_input_embeddings().weight
    for token in ("▁red", "<loc0512>", "<seg003>", "\n", "<eos>"):
        new_id, old_id = (
            each.convert_tokens_to_ids(token) for each in (training.tokenizer, before.processor.tokenizer)
        )
        assert torch.equal(rows[new_id], old_rows[old_id]), token
    name = "model.vision_tower.encoder.layers.0.mlp.fc1.weight"
    assert torch.equal(training.network.model.state_dict()[name], before.model.state_dict()[name])


def test_stages_follow_each_other_and_only_a_cold_start_has_the_easy_one() -> None:
    for warm in (True, False):
        ends = [stage.until for stage in stages(warm=warm)]
        assert ends == sorted(ends)
        assert ends[-1] == 1
    assert len(stages(warm=False)) == len(stages(warm=True)) + 1
