"""What a gateway and its replicas say of themselves."""

from typing import Final

import httpx2
from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_S: Final = 10.0


def read_samples(url: str, name: str) -> dict[str, float]:
    """The samples of a metric by the value of their first label; those with the same value are added up."""
    text = httpx2.get(url, timeout=TIMEOUT_S, trust_env=False).text
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name:
                label = next(iter(sample.labels.values()), "")
                found[label] = found.get(label, 0.0) + sample.value
    return found
