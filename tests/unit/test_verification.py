"""The comparison of a server with `generate`: right answers agree, and whatever is wrong with others is seen.

The server is an engine in this process; tests/integration/test_verify.py runs the command on a real one.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import DEMO_MODEL_ID, make_random_checkpoint
from engines import Bench, Pending
from PIL import Image

from paligemma_engine import Answer, Engine, EngineConfig, EngineMetrics, Request
from paligemma_engine.requests.request import TargetAnswer
from paligemma_engine.startup import start_engine
from parts.verify import checks
from parts.verify.cases import Case, drawn_cases
from parts.verify.comparison import EXACT, ROUNDED, Comparison, Job, Tolerance, Verdict, compare
from parts.verify.decoder import Decoders
from parts.verify.reference import Reference, find_files
from parts.verify.report import as_json, conclusion, table

MAX_NEW_TOKENS = 48
TOKEN_ROWS = {checks.TOKENS, checks.CHOICES, checks.LOGPROBS}

Edit = Callable[[TargetAnswer], TargetAnswer]


def load_reference(models_dir: Path, model_id: str, *, grammar: bool = True) -> Reference:
    config = EngineConfig(model_id=model_id, models_dir=models_dir, grammar=grammar)
    return Reference(config, find_files(config))


def run(reference: Reference, cases: list[Case], answers: list[Answer], tolerance: Tolerance) -> list[Comparison]:
    return list(compare(reference, cases, answers, Job(MAX_NEW_TOKENS, grammar=True, tolerance=tolerance)))


def failed(rows: list[checks.Check]) -> set[str]:
    return {row.name for row in rows if not row.passed}


@pytest.fixture(scope="module")
def reference(models_dir: Path) -> Reference:
    return load_reference(models_dir, DEMO_MODEL_ID)


@pytest.fixture(scope="module")
def decoders(models_dir: Path) -> Decoders:
    return Decoders.load(models_dir / "vae-demo.npz")


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return drawn_cases(3)


@pytest.fixture
def bench(models_dir: Path) -> Iterator[Bench]:
    bench = Bench(models_dir)
    yield bench
    bench.engine.close(drain_timeout_s=5)


def ask(bench: Bench, cases: list[Case]) -> list[Answer]:
    return [bench.ask(case.picture.encoded, case.prompt, max_new_tokens=MAX_NEW_TOKENS) for case in cases]


def edited(answer: Answer, edit: Edit) -> Answer:
    """An answer whose first target with tokens is another."""
    changed = next(index for index, target in enumerate(answer.targets) if target.tokens)
    targets = [edit(target) if index == changed else target for index, target in enumerate(answer.targets)]
    return dataclasses.replace(answer, targets=tuple(targets))


def replaced_token(target: TargetAnswer, position: int, **fields: Any) -> TargetAnswer:
    tokens = list(target.tokens)
    tokens[position] = dataclasses.replace(tokens[position], **fields)
    return dataclasses.replace(target, tokens=tuple(tokens))


def test_right_answers_agree(bench: Bench, reference: Reference, decoders: Decoders, cases: list[Case]) -> None:
    answers = ask(bench, cases)
    compared = run(reference, cases, answers, EXACT)
    rows = [
        checks.check_pictures(reference, cases, answers),
        *checks.check_answers(compared, decoders, EXACT),
        checks.check_load(cases, answers, ask(bench, cases), 1, EXACT),
        *checks.check_decoder(decoders, decoders.vae.decode, compared),
    ]
    assert failed(rows) == set()
    assert {one.verdict for one in compared} == {Verdict.EQUAL}
    assert all(row.cases for row in rows)
    assert conclusion(rows, compared) == "The server answers as it must on this checkpoint."
    assert all(row.name in table(rows) for row in rows)
    assert as_json({}, rows, compared)["passed"]


@pytest.mark.parametrize(
    ("edit", "rows"),
    [
        (lambda target: replaced_token(target, 5, text="<seg127>"), TOKEN_ROWS | {checks.MASKS}),
        (lambda target: replaced_token(target, 1, text="<loc0900>"), TOKEN_ROWS | {checks.BOXES}),
        (lambda target: replaced_token(target, 2, logprob=target.tokens[2].logprob - 0.01), {checks.LOGPROBS}),
        (lambda target: dataclasses.replace(target, tokens=target.tokens[:-1]), {checks.TOKENS, checks.CHOICES}),
        (lambda target: dataclasses.replace(target, finish_reason="length"), {checks.TOKENS}),
        (lambda target: dataclasses.replace(target, tokens=(), finish_reason="error"), {checks.TOKENS, checks.BOXES}),
    ],
    ids=["code", "box", "logprob", "cut off", "reason", "none"],
)
def test_a_wrong_answer_is_seen(
    bench: Bench, reference: Reference, decoders: Decoders, cases: list[Case], edit: Edit, rows: set[str]
) -> None:
    case = next(case for case in cases if case.prompt.startswith("segment"))
    compared = run(reference, [case], [edited(*ask(bench, [case]), edit)], EXACT)
    found = checks.check_answers(compared, decoders, EXACT)
    assert failed(found) >= rows
    said = conclusion(found, compared)
    assert "NOT" in said
    assert "MODEL_ID" in said
    assert bool(as_json({}, found, compared)["differences"]) == (checks.TOKENS in rows)


def test_an_engine_that_counts_positions_wrongly_is_seen(
    bench: Bench, reference: Reference, decoders: Decoders, cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32, and where rounding is allowed for, too."""
    language_model = bench.checkpoint.model.model.language_model
    forward = language_model.forward

    def from_zero(*args: Any, position_ids: torch.Tensor, **kwargs: Any) -> Any:
        decoding = position_ids.shape[1] == 1
        return forward(*args, position_ids=position_ids - 1 if decoding else position_ids, **kwargs)

    monkeypatch.setattr(language_model, "forward", from_zero)
    answers = ask(bench, cases)
    for tolerance in (EXACT, ROUNDED):
        rows = checks.check_answers(run(reference, cases, answers, tolerance), decoders, tolerance)
        assert failed(rows) >= {checks.LOGPROBS}


def test_pictures_that_are_not_turned_upright_are_seen(bench: Bench, reference: Reference) -> None:
    case = next(case for case in drawn_cases(8) if "EXIF" in case.picture.name)
    sideways = dataclasses.replace(case.picture, upright=case.picture.upright.transpose(Image.Transpose.ROTATE_90))
    answers = ask(bench, [case])
    assert checks.check_pictures(reference, [case], answers).passed
    assert not checks.check_pictures(reference, [Case(sideways, case.prompt)], answers).passed


def test_how_a_checkpoint_would_rather_generate_does_not_matter(
    bench: Bench, models_dir: Path, tmp_path: Path, cases: list[Case]
) -> None:
    """Fine-tunes may carry settings of beams or penalties; the server is greedy."""
    folder = tmp_path / DEMO_MODEL_ID
    shutil.copytree(models_dir / DEMO_MODEL_ID, folder)
    file = folder / "generation_config.json"
    wishes = {"num_beams": 2, "repetition_penalty": 3.0, "cache_implementation": "static"}
    file.write_text(json.dumps({**json.loads(file.read_text()), **wishes}))
    compared = run(load_reference(tmp_path, DEMO_MODEL_ID), cases, ask(bench, cases), EXACT)
    assert {one.verdict for one in compared} == {Verdict.EQUAL}


def test_where_rounding_decides_another_token_is_as_good(bench: Bench, reference: Reference, cases: list[Case]) -> None:
    case = next(case for case in cases if case.prompt.startswith("segment"))
    wrong = edited(*ask(bench, [case]), lambda target: replaced_token(target, 3, text="<loc0901>"))
    generous = dataclasses.replace(ROUNDED, gap=1e6)
    verdicts = [{one.verdict for one in run(reference, [case], [wrong], each)} for each in (ROUNDED, generous)]
    assert Verdict.DIFFERENT in verdicts[0]
    assert Verdict.ROUNDING in verdicts[1]
    assert Verdict.DIFFERENT not in verdicts[1]


@pytest.fixture(scope="module", params=[1, 2])
def random_weights(
    request: pytest.FixtureRequest, models_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Answer]]:
    """A PaliGemma 1 and a 2 that write anything, and what the engine answers with them within the grammar."""
    folder = tmp_path_factory.mktemp("models")
    make_random_checkpoint(folder / "random", models_dir / DEMO_MODEL_ID, generation=request.param)
    config = EngineConfig(model_id="random", models_dir=folder, max_slots=4, max_new_tokens=MAX_NEW_TOKENS)
    engine = start_engine(config, metrics=EngineMetrics(), on_fatal=lambda: None)
    answers = [_answer(engine, case) for case in drawn_cases(2)]
    engine.close(drain_timeout_s=5)
    return folder, answers


def test_malformed_free_answers_are_compared_as_far_as_they_go(
    random_weights: tuple[Path, list[Answer]], decoders: Decoders
) -> None:
    folder, answers = random_weights
    compared = run(load_reference(folder, "random"), drawn_cases(2), answers, EXACT)
    rows = checks.check_answers(compared, decoders, EXACT)
    assert failed(rows) == set()
    malformed = [one for one in compared if one.verdict is Verdict.MALFORMED]
    assert malformed
    assert f"{len(malformed)} compared up to where" in rows[0].note


def test_malformed_free_answers_do_not_hide_one_that_is_cut_off(random_weights: tuple[Path, list[Answer]]) -> None:
    folder, answers = random_weights
    reference, case = load_reference(folder, "random"), drawn_cases(2)[0]
    for reason in ("error", "deadline", "length"):
        cut = edited(answers[0], lambda target, reason=reason: TargetAnswer(target.target, target.tokens[:9], reason))
        assert run(reference, [case], [cut], EXACT)[0].verdict is Verdict.DIFFERENT


def test_a_grammar_on_one_side_only_is_named(random_weights: tuple[Path, list[Answer]], decoders: Decoders) -> None:
    folder, answers = random_weights
    compared = run(load_reference(folder, "random", grammar=False), drawn_cases(2), answers, EXACT)
    rows = checks.check_answers(compared, decoders, EXACT)
    assert failed(rows) >= {checks.TOKENS, checks.CHOICES}
    assert "GRAMMAR must be the same" in conclusion(rows, compared)


def _answer(engine: Engine, case: Case) -> Answer:
    pending = Pending()
    engine.submit(Request(image=case.picture.encoded, prompt=case.prompt), pending)
    answer: Answer = pending.wait()
    return answer


def test_answers_that_change_with_the_load_are_seen(bench: Bench, cases: list[Case]) -> None:
    alone = ask(bench, cases)
    index = next(index for index, answer in enumerate(alone) if answer.targets[0].tokens)
    noisy, wrong, shorter = list(alone), list(alone), list(alone)

    def changed(**fields: Any) -> Answer:
        return edited(alone[index], lambda target: replaced_token(target, 0, **fields))

    logprob = next(target.tokens[0].logprob for target in alone[index].targets if target.tokens)
    noisy[index] = changed(logprob=logprob + 1e-5)
    wrong[index] = changed(text="<loc0900>", logprob=logprob - 2)
    shorter[index] = dataclasses.replace(alone[index], targets=alone[index].targets[:-1])
    assert checks.check_load(cases, alone, noisy, 4, EXACT).passed
    for loaded in (wrong, shorter):
        row = checks.check_load(cases, alone, loaded, 4, EXACT)
        assert not row.passed
        assert cases[index].name in row.note


def test_wrong_masks_are_seen(decoders: Decoders) -> None:
    def rows(decode: Callable[[Any], Any]) -> set[str]:
        return failed(checks.check_decoder(decoders, decode, []))

    both = {checks.DECODER, checks.DECODER_TORCH}
    assert rows(decoders.vae.decode) == set()
    assert rows(lambda codes: decoders.vae.decode(codes) + 0.01) == both
    assert rows(lambda codes: decoders.vae.decode(codes).transpose(0, 2, 1)) == both | {checks.ROUND_TRIP}
