"""How many engine pods the autoscaler asks for: its own query, by Prometheus' own evaluation, and the formula."""

import math
import subprocess
from pathlib import Path

import pytest
import yaml
from charts import NAMESPACE, Object, of_kind, rendering
from promtool import find_promtool

TOLERANCE = 0.1  # of a HorizontalPodAutoscaler: no change for a smaller difference
SERIES = (  # pods of this release, of another one in the namespace, and of another namespace: pending, active
    ("paligemma-triton-1", NAMESPACE, 7, 32),
    ("paligemma-triton-2", NAMESPACE, 90, 31),
    ("paligemma-old-triton-1", NAMESPACE, 500, 16),
    ("paligemma-triton-1", "elsewhere", 1000, 16),
)


def scaler() -> Object:
    (found,) = of_kind(rendering("values-multi-gpu"), "ScaledObject")
    return dict(found["spec"])


def trigger() -> dict[str, str]:
    (found,) = scaler()["triggers"]
    return dict(found["metadata"])


def test_the_query_adds_up_what_runs_and_waits_in_this_release(tmp_path: Path) -> None:
    promtool = find_promtool()
    metrics = {"paligemma_pending_requests": 2, "paligemma_active_slots": 3}
    samples = [
        {"series": f'{metric}{{pod="{row[0]}", namespace="{row[1]}"}}', "values": f"{row[column]}x4"}
        for metric, column in metrics.items()
        for row in SERIES
    ]
    expected = sum(pending + active for pod, namespace, pending, active in SERIES[:2])
    check = {"expr": trigger()["query"], "eval_time": "1m", "exp_samples": [{"labels": "{}", "value": expected}]}
    test = {"tests": [{"interval": "15s", "input_series": samples, "promql_expr_test": [check]}]}
    (tmp_path / "query.yml").write_text(yaml.safe_dump(test))
    command = [promtool, "test", "rules", "query.yml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def desired_pods(sequences: float, pods: int) -> int:
    """What a HorizontalPodAutoscaler asks for with an AverageValue target, within the ScaledObject's bounds."""
    spec, target = scaler(), float(trigger()["threshold"])
    if abs(sequences / (target * pods) - 1) <= TOLERANCE:
        return pods
    return min(max(math.ceil(sequences / target), spec["minReplicaCount"]), spec["maxReplicaCount"])


@pytest.mark.parametrize(
    ("sequences", "pods", "desired"),
    [
        (0, 2, 2),  # idle: the smallest number
        (96, 2, 2),  # as many as wanted
        (128, 2, 3),  # all 64 slots of both pods are taken
        (160, 2, 4),  # and 32 requests wait
        (2000, 4, 8),  # a flood: the largest number
        (100, 4, 3),  # it ebbs
    ],
)
def test_pods_follow_the_load(sequences: int, pods: int, desired: int) -> None:
    assert desired_pods(sequences, pods) == desired


def test_pods_leave_slowly() -> None:
    """A new one loads for minutes, so a pause in the load must not cost one."""
    behavior = scaler()["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleUp"]["stabilizationWindowSeconds"] == 0
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] >= 300
    assert behavior["scaleDown"]["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 120}]


def test_both_autoscalers_have_one_behavior() -> None:
    (plain,) = of_kind(rendering("hpa"), "HorizontalPodAutoscaler")
    assert plain["spec"]["behavior"] == scaler()["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
