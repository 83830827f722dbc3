"""The reference pages against the code: settings, metrics, error codes, REST fields, tensors."""

import re
import subprocess

import pytest
from documents import ERRORS, METRICS, REPOSITORY, REST, SETTINGS, TENSORS, first_cells, rows, section
from triton_fake import read_config

from gateway.errors import STATUS_OF_CODE
from gateway.inputs.prompts import TASK_WORDS
from gateway.schemas import Mask, Models, SegmentForm, SegmentResponse, TargetEnd
from gateway.settings import Settings
from gateway.watching.metrics import Metrics
from paligemma_engine import errors as engine_errors
from paligemma_engine.metrics import FAMILIES, MetricKind
from parts.serve.metrics import FAMILIES as SUPERVISOR_FAMILIES

INTERNAL = {"HEARTBEAT_DIR"}  # between the supervisor and its engines
READS_A_VARIABLE = re.compile(r'environ(?:\.get\(|, |\[)"([A-Z_]+)"|^([A-Z_]+): Final = "\2"$', re.MULTILINE)
SOURCES = ("gateway", "model_repository", "scripts")
MODELS = ["segment", "paligemma", "token_parser", "mask_decoder"]


def sources() -> str:
    command = ["git", "ls-files", *SOURCES]
    listed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()
    return "\n".join((REPOSITORY / path).read_text() for path in listed if path.endswith(".py"))


def test_the_variables_are_those_that_are_read() -> None:
    read = {name for pair in READS_A_VARIABLE.findall(sources()) for name in pair if name}
    settings = {name.upper() for name in Settings.model_fields}
    assert first_cells(SETTINGS) == (read | settings | {"PYTHON"}) - INTERNAL


def test_a_variable_is_described_once() -> None:
    names = [name for row in rows(SETTINGS) for name in re.findall(r"`(\w+)`", row[0])]
    assert len(names) == len(set(names))


def test_the_engines_metrics_are_those_that_are_exported() -> None:
    engine = section(METRICS, "Engine")
    assert first_cells(METRICS, "Engine") == {family.name for family in FAMILIES}
    for family in FAMILIES:
        (row,) = [row for row in rows(engine) if f"`{family.name}`" in row[0]]
        assert family.kind.value in row[1]
        if family.kind is MetricKind.HISTOGRAM:
            bounds = ", ".join(f"{bound:g}" for bound in family.buckets)
            assert bounds in engine


def test_the_gateways_metrics_are_those_that_are_exported() -> None:
    documented = {row[0].strip("`"): row[1] for row in rows(section(METRICS, "Gateway"))}
    exported = {
        f"{metric.name}_total" if metric.type == "counter" else metric.name: metric.type
        for metric in Metrics().registry.collect()
    }
    assert documented == {name: kind for name, kind in exported.items() if name.startswith("gateway_")}
    of_the_process = {f"`{name.split('_')[0]}_*`" for name in exported.keys() - documented.keys()}
    assert all(family in section(METRICS, "Gateway") for family in of_the_process)


def test_the_supervisors_metrics_are_those_that_are_exported() -> None:
    documented = {row[0].strip("`"): row[1] for row in rows(section(METRICS, "Supervisor"))}
    assert documented == {family.name: family.kind for family in SUPERVISOR_FAMILIES}


def test_the_error_codes_are_those_that_are_answered() -> None:
    assert {row[0].strip("`"): int(row[1]) for row in rows(ERRORS)} == STATUS_OF_CODE


def test_the_engines_codes_have_their_triton_statuses() -> None:
    documented = {row[0].strip("`"): row[2] for row in rows(section(ERRORS, "Codes of the engine"))}
    classes = engine_errors.EngineError.__subclasses__()
    assert documented == {error.code: error.status for error in classes}


def test_the_fields_of_models_are_those_that_are_answered() -> None:
    assert [row[0].strip("`") for row in rows(section(REST, "Models"))] == list(Models.model_fields)


def test_the_requests_fields_are_those_that_are_read() -> None:
    assert first_cells(REST, "Request") == {*SegmentForm.model_fields, "image_file", "image_url"}
    assert set(re.findall(r"`(\w+)`", section(REST, "Request").split("The task words are")[1])) == TASK_WORDS


def test_the_answers_fields_are_those_that_are_sent() -> None:
    documented = {name for row in rows(section(REST, "Answer")) for name in re.findall(r"`([\w.\[\]]+)`", row[0])}
    assert documented == {
        *SegmentResponse.model_fields,
        *(f"masks[].{name}" for name in Mask.model_fields),
        *(f"targets[].{name}" for name in TargetEnd.model_fields),
    }


@pytest.mark.parametrize("model", MODELS)
def test_a_models_tensors_are_those_of_its_configuration(model: str) -> None:
    config = read_config(model)
    table = {row[0].strip("`"): row for row in rows(TENSORS.split("| tensor |")[0])}
    inputs, outputs = (set(re.findall(r"`(\w+)`", cell)) for cell in table[model][1:3])
    if inputs == {"paligemma"}:  # "as `paligemma`"
        inputs = set(re.findall(r"`(\w+)`", table["paligemma"][1]))
    assert inputs == {tensor.name for tensor in config.input}
    assert outputs == {tensor.name for tensor in config.output}
    assert inputs | outputs <= first_cells(TENSORS) | {"image", "prompt", "model_id", "max_new_tokens"}
