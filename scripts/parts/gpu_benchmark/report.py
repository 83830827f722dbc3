"""Computes the figures and formats the table."""

import dataclasses
import statistics
from dataclasses import dataclass, field
from typing import Any, Final

from parts.gpu_benchmark.ceilings import ModelCost
from parts.gpu_benchmark.contenders import Load
from parts.gpu_benchmark.exactness import Exactness
from parts.gpu_benchmark.work import NEW_TOKENS

MEAN_STEP: Final = NEW_TOKENS // 2  # the decode step with the average number of positions
STEPS: Final = NEW_TOKENS - 1  # the prefill gives the first token


@dataclass(frozen=True, slots=True)
class Setting:
    """The model, the engine's settings and the device that were measured."""

    device: str
    torch: str
    transformers: str
    architecture: str
    dtype: str
    execution: str
    slots: int
    prompt_tokens: int
    start_s: float
    exactness: Exactness


@dataclass(slots=True)
class Measured:
    """All measurements so far, one entry per round; prefills one by one; steps by their number of rows."""

    matrix_flops_per_s: list[float] = field(default_factory=list)
    copy_bytes_per_s: list[float] = field(default_factory=list)
    prefill_s: list[float] = field(default_factory=list)
    step_s: dict[int, list[float]] = field(default_factory=dict)
    loads: list[Load] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Floors:
    """The least time that the model's work takes at the measured ceilings."""

    cost: ModelCost
    prompt_tokens: int
    slots: int
    matrix_flops_per_s: float
    copy_bytes_per_s: float

    def prefill_s(self, *, picture_seen: bool = False) -> float:
        """A prefill's operations / measured rate of a matrix product."""
        return self.cost.prefill_flops(self.prompt_tokens, picture_seen=picture_seen) / self.matrix_flops_per_s

    def step_s(self, rows: int) -> float:
        """A step's bytes of weights, keys and values / measured rate of a copy."""
        return self.cost.step_bytes(rows, self.prompt_tokens + MEAN_STEP) / self.copy_bytes_per_s

    def requests_per_s(self, concurrent: int, *, same_picture: bool) -> float:
        """Rows / (rows x prefill + steps x step); rows is the smaller of requests and slots."""
        rows = min(concurrent, self.slots)
        return rows / (rows * self.prefill_s(picture_seen=same_picture) + STEPS * self.step_s(rows))


def make_report(setting: Setting, cost: ModelCost, measured: Measured) -> dict[str, Any]:
    """Returns all figures as JSON data. Shares are floor / measured time: 1 is as fast as the GPU can be."""
    floors = Floors(
        cost,
        setting.prompt_tokens,
        setting.slots,
        statistics.median(measured.matrix_flops_per_s),
        statistics.median(measured.copy_bytes_per_s),
    )
    reference = measured.loads[0]
    return {
        "setting": dataclasses.asdict(setting),
        "rounds": len(measured.matrix_flops_per_s),
        "ceilings": {"matrix_flops_per_s": floors.matrix_flops_per_s, "copy_bytes_per_s": floors.copy_bytes_per_s},
        "prefill": _against(floors.prefill_s(), statistics.median(measured.prefill_s)),
        "steps": [
            {"rows": rows, **_against(floors.step_s(rows), statistics.median(seconds))}
            for rows, seconds in measured.step_s.items()
        ],
        "loads": [_summary(load, reference, floors) for load in measured.loads],
    }


def _against(floor_s: float, seconds: float) -> dict[str, float]:
    return {"seconds": seconds, "floor_s": floor_s, "share_of_floor": floor_s / seconds}


def _summary(load: Load, reference: Load, floors: Floors) -> dict[str, Any]:
    rate = load.requests / load.wall_s
    ordered = sorted(load.latencies_s)
    floor = floors.requests_per_s(load.concurrent, same_picture=load.same_picture)
    return {
        "name": load.name,
        "concurrent": load.concurrent,
        "requests": load.requests,
        "requests_per_s": rate,
        "times_a": rate / (reference.requests / reference.wall_s),
        "p50_s": statistics.median(ordered),
        "p95_s": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))],
        "floor_requests_per_s": floor,
        "share_of_floor": rate / floor,
        "idle_share": load.idle_s / load.watched_s if load.watched_s else None,
    }


def format_report(report: dict[str, Any]) -> str:
    """The table."""
    setting, ceilings, exactness = report["setting"], report["ceilings"], report["setting"]["exactness"]
    lines = [
        f"{setting['architecture']}, {setting['dtype']}, {setting['slots']} slots, prompts of"
        f" {setting['prompt_tokens']} tokens, answers of {NEW_TOKENS}, {report['rounds']} rounds",
        f"{setting['device']}, PyTorch {setting['torch']}, transformers {setting['transformers']}",
        f"ceilings: matrix product {ceilings['matrix_flops_per_s'] / 1e12:.1f} TFLOP/s,"
        f" copy {ceilings['copy_bytes_per_s'] / 1e9:.0f} GB/s",
        f"float32, few layers: {exactness['equal']} of {exactness['answers']} answers equal generate's",
        f"{setting['execution']}; runner started in {setting['start_s']:.1f} s",
        "",
        "                  ms   floor ms  of floor",
        _step_line("prefill", report["prefill"]),
        *(_step_line(f"step, {step['rows']} rows", step) for step in report["steps"]),
        "",
        "             req/s   x (a)   p50 ms   p95 ms  of floor  device idle",
        *(_load_line(load) for load in report["loads"]),
    ]
    return "\n".join(lines)


def _step_line(name: str, figures: dict[str, Any]) -> str:
    seconds, floor_s = figures["seconds"], figures["floor_s"]
    return f"{name:<13} {seconds * 1e3:>8.3f} {floor_s * 1e3:>8.3f} {figures['share_of_floor']:>8.1%}"


def _load_line(load: dict[str, Any]) -> str:
    idle = "-" if load["idle_share"] is None else f"{load['idle_share']:.1%}"
    return (
        f"{load['name']:<7}{load['concurrent']:>3} {load['requests_per_s']:>8.2f} {load['times_a']:>7.2f}"
        f" {load['p50_s'] * 1e3:>8.0f} {load['p95_s'] * 1e3:>8.0f}  {load['share_of_floor']:>8.1%}  {idle:>11}"
    )
