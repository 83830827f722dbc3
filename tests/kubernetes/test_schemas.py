"""Every rendered object against the schemas of Kubernetes' two newest versions, and of the custom resources."""

import json
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
from charts import RENDERINGS, Object, kserve_objects, rendering
from kubernetes_validate.utils import all_versions
from stack import REPOSITORY

VERSIONS = list(dict.fromkeys(all_versions()))[-2:]
CUSTOM = REPOSITORY / "tests" / "data" / "kubernetes"


def check(rendered: Object, version: str) -> None:
    """Raises ValidationError; an unknown kind is an error, too."""
    schema = CUSTOM / f"{rendered['apiVersion'].replace('/', '_')}_{rendered['kind']}.json"
    if schema.exists():
        jsonschema.validate(rendered, json.loads(schema.read_text()), jsonschema.Draft202012Validator)
    else:
        kubernetes_validate.validate(rendered, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", RENDERINGS)
def test_every_object_is_valid(name: str, version: str) -> None:
    objects = rendering(name)
    assert objects
    for rendered in objects:
        check(rendered, version)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_objects_for_kserve_are_valid(version: str) -> None:
    objects = kserve_objects()
    assert {rendered["kind"] for rendered in objects} == {"InferenceService", "PersistentVolumeClaim", "ServingRuntime"}
    for rendered in objects:
        check(rendered, version)


@pytest.mark.parametrize(
    ("kind", "path", "misspelt"),
    [
        ("Deployment", ("spec", "template", "spec"), "terminationGracePeriod"),
        ("ScaledObject", ("spec",), "minReplicasCount"),
        ("ScaledObject", ("spec", "triggers", 0), "metadatas"),
        ("HTTPRoute", ("spec", "rules", 0, "timeouts"), "backend"),
        ("PodMonitor", ("spec", "podMetricsEndpoints", 0), "intervall"),
        ("ServiceMonitor", ("spec",), "podMetricEndpoints"),
        ("PrometheusRule", ("spec", "groups", 0, "rules", 0), "expression"),
    ],
)
def test_a_misspelt_field_is_found(kind: str, path: tuple[str | int, ...], misspelt: str) -> None:
    """What the tests above rest on."""
    (rendered,) = [json.loads(json.dumps(found)) for found in rendering("values-multi-gpu") if found["kind"] == kind][
        :1
    ]
    part: Any = rendered
    for step in path:
        part = part[step]
    part[misspelt] = "1s"
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(rendered, VERSIONS[-1])


def test_an_unknown_kind_is_found() -> None:
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        check({"apiVersion": "example.com/v1", "kind": "Unknown", "metadata": {"name": "x"}}, VERSIONS[-1])
