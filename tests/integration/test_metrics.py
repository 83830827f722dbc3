"""The engine's metric families in Triton's /metrics."""

import subprocess
from typing import Any

import numpy as np
import pytest
from promtool import find_promtool
from stack import published_metrics

from paligemma_engine.metrics import FAMILIES, Family


@pytest.fixture(scope="module")
def text(stack: Any, sample_image: bytes) -> str:
    stack.ask("grpc", sample_image, "segment blue star")
    lines = published_metrics(stack.ports).splitlines()
    ours = [line for line in lines if line.removeprefix("# HELP ").removeprefix("# TYPE ").startswith("paligemma_")]
    return "\n".join([*ours, ""])


@pytest.mark.parametrize("family", FAMILIES, ids=[family.name for family in FAMILIES])
def test_a_family_is_exported_with_its_kind_and_labels(text: str, family: Family) -> None:
    assert f"# TYPE {family.name} {family.kind.value}\n" in text
    series = [line for line in text.splitlines() if line.startswith((f"{family.name}{{", f"{family.name}_"))]
    assert series
    assert all('instance="paligemma_0_0"' in line for line in series)
    bounds = [float(line.split('le="')[1].split('"')[0]) for line in series if 'le="' in line]
    assert bounds == ([*family.buckets, np.inf] if family.buckets else [])


def test_no_family_is_exported_that_is_not_declared(text: str) -> None:
    exported = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert exported == {family.name for family in FAMILIES}


def test_promtool_finds_nothing_to_complain_of(text: str) -> None:
    checked = subprocess.run(
        [find_promtool(), "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
