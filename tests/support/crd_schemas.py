"""Writes tests/data/kubernetes: the schemas of the custom resources that deploy/kubernetes uses, from their projects.

    python tests/support/crd_schemas.py FOLDER        FOLDER has clones of the projects below, with their tags

The schemas are made compact and strict: descriptions go, repeated parts are kept once, and a field that the schema does
not have is an error (a real API server drops it silently).
"""

import argparse
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

SCHEMAS: Final = Path(__file__).resolve().parent.parent / "data" / "kubernetes"
DROPPED: Final = ("description", "default", "format")
KUBERNETES_WORDS: Final = "x-kubernetes-"
SHARED_FROM_CHARACTERS: Final = 200  # a repeated part that is shorter stays where it is


@dataclass(frozen=True, slots=True)
class Source:
    """A file with a custom resource definition in a project's repository, at a tag."""

    project: str
    tag: str
    path: str


SOURCES: Final = (
    Source("gateway-api", "v1.6.1", "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"),
    Source("keda", "v2.20.2", "config/crd/bases/keda.sh_scaledobjects.yaml"),
    Source("kserve", "v0.20.0", "config/crd/full/serving.kserve.io_inferenceservices.yaml"),
    Source("kserve", "v0.20.0", "config/crd/full/serving.kserve.io_servingruntimes.yaml"),
    *(
        Source("prometheus-operator", "v0.93.0", f"example/prometheus-operator-crd/monitoring.coreos.com_{kind}.yaml")
        for kind in ("podmonitors", "prometheusrules", "servicemonitors")
    ),
)


def main() -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(description="Writes the compact schemas of custom resources.")
    parser.add_argument("folder", type=Path, help="with the clones")
    folder: Path = parser.parse_args().folder
    SCHEMAS.mkdir(parents=True, exist_ok=True)
    for source in SOURCES:
        command = ["git", "-C", str(folder / source.project), "show", f"{source.tag}:{source.path}"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        write(yaml.load(text, yaml.CSafeLoader), source)  # a safe loader, in C: the files have megabytes
    return 0


def write(definition: dict[str, Any], source: Source) -> None:
    """Writes the schema of the stored version."""
    group, kind = definition["spec"]["group"], definition["spec"]["names"]["kind"]
    for version in definition["spec"]["versions"]:
        if not version["storage"]:
            continue
        name = version["name"]
        schema = share(
            strict(version["schema"]["openAPIV3Schema"]) | {"$comment": f"{source.project} {source.tag}: {source.path}"}
        )
        (SCHEMAS / f"{group}_{name}_{kind}.json").write_text(json.dumps(schema, separators=(",", ":")) + "\n")


def strict(schema: Any) -> Any:
    """JSON Schema from a structural schema of Kubernetes, without descriptions, that refuses unknown fields."""
    if not isinstance(schema, dict):
        return schema
    result = {
        word: value for word, value in schema.items() if word not in DROPPED and not word.startswith(KUBERNETES_WORDS)
    }
    if "properties" in result:
        result["properties"] = {name: strict(value) for name, value in result["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in result:
            result["additionalProperties"] = False
    for word in ("items", "additionalProperties", "not"):
        if word in result:
            result[word] = strict(result[word])
    for word in ("allOf", "anyOf", "oneOf"):
        if word in result:
            result[word] = [loose(part) for part in result[word]]
    if "pattern" in result:  # Go takes flags anywhere, Python at the beginning
        result["pattern"] = re.sub(r"^\^\(\?i\)", "(?i)^", result["pattern"])
    if schema.get("x-kubernetes-int-or-string"):
        result.pop("type", None)
        result["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    return result


def loose(part: dict[str, Any]) -> dict[str, Any]:
    """A part of anyOf and the like: it only adds conditions, so it names some of the fields."""
    return {word: value for word, value in part.items() if word not in DROPPED}


def share(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema, with each long part that occurs several times as one definition."""
    counts: Counter[str] = Counter()
    count_parts(schema, counts)
    names: dict[str, str] = {}
    definitions: dict[str, Any] = {}

    def shared(part: Any, *, is_schema: bool) -> Any:
        if isinstance(part, list):
            return [shared(value, is_schema=is_schema) for value in part]
        if not isinstance(part, dict):
            return part
        text = json.dumps(part, sort_keys=True)
        if is_schema and len(text) >= SHARED_FROM_CHARACTERS and counts[text] > 1:
            if text not in names:
                names[text] = str(len(names))
                definitions[names[text]] = inner(part)
            return {"$ref": f"#/$defs/{names[text]}"}
        return inner(part) if is_schema else {word: shared(value, is_schema=True) for word, value in part.items()}

    def inner(part: dict[str, Any]) -> dict[str, Any]:
        return {word: shared(value, is_schema=word != "properties") for word, value in part.items()}

    return inner(schema) | {"$defs": definitions}


def count_parts(part: Any, counts: Counter[str]) -> None:
    """Counts each distinct part of a schema."""
    if isinstance(part, dict):
        counts[json.dumps(part, sort_keys=True)] += 1
        for value in part.values():
            count_parts(value, counts)
    elif isinstance(part, list):
        for value in part:
            count_parts(value, counts)


if __name__ == "__main__":
    sys.exit(main())
