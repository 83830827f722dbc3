"""What was measured of a contender, and the table of all."""

import os
import statistics
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Result:
    """One contender's measurements over all rounds."""

    name: str
    clients: int
    requests: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int = 0
    latencies_s: list[float] = field(default_factory=list)
    first_tokens_s: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Rates, percentiles and costs per request."""
        ordered = sorted(self.latencies_s)

        def percentile(share: float) -> float:
            return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

        return {
            "name": self.name,
            "clients": self.clients,
            "requests": self.requests,
            "requests_per_s": self.requests / self.wall_s,
            "p50_s": percentile(0.50),
            "p95_s": percentile(0.95),
            "p99_s": percentile(0.99),
            "first_token_s": statistics.fmean(self.first_tokens_s) if self.first_tokens_s else None,
            "cpu_s_per_request": self.cpu_s / self.requests,
            "peak_mb": self.peak_bytes / 1e6,
        }


def add_ratios(summaries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds each summary's ratios to the reference: requests per second, requests per CPU second, median latency."""
    reference = summaries[0]
    for summary in summaries:
        summary["times_requests_per_s"] = summary["requests_per_s"] / reference["requests_per_s"]
        summary["times_requests_per_cpu_s"] = reference["cpu_s_per_request"] / summary["cpu_s_per_request"]
        summary["times_p50"] = summary["p50_s"] / reference["p50_s"]
    return summaries


def print_report(title: str, summaries: list[dict[str, Any]]) -> None:
    """Prints a table, one line per contender."""
    print(f"\n{title}: {os.cpu_count()} CPU cores, times in ms, x = times ({summaries[0]['name']})")
    width = max(len(row["name"]) for row in summaries)
    print(f"{'':{width}}      req/s    x      p50   p95   p99   first   CPU/req   req/CPU x   peak MB")
    for row in summaries:
        first = "    -" if row["first_token_s"] is None else f"{row['first_token_s'] * 1e3:>5.0f}"
        print(
            f"{row['name']:<{width}} {row['clients']:>2}"
            f"  {row['requests_per_s']:>6.1f} {row['times_requests_per_s']:>5.2f}"
            f"   {row['p50_s'] * 1e3:>5.0f} {row['p95_s'] * 1e3:>5.0f} {row['p99_s'] * 1e3:>5.0f}   {first}"
            f"   {row['cpu_s_per_request'] * 1e3:>7.0f}   {row['times_requests_per_cpu_s']:>9.2f}"
            f"   {row['peak_mb']:>7.0f}",
            flush=True,
        )


def print_ratios(summaries: list[dict[str, Any]]) -> None:
    """Prints how the last contender compares with each of the others, one line for each."""
    *others, last = summaries
    for other in others:
        rate = last["requests_per_s"] / other["requests_per_s"]
        per_cpu_s = other["cpu_s_per_request"] / last["cpu_s_per_request"]
        latency = last["p50_s"] / other["p50_s"]
        print(
            f"{last['name']} against {other['name']}: {rate:.1f} x requests/s, "
            f"{per_cpu_s:.1f} x requests per CPU second, {latency:.2f} x p50",
            flush=True,
        )
