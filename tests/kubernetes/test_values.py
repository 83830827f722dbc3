"""The chart's values: what is refused, what is documented, and the versions that belong together."""

import tomllib
from typing import Any

import pytest
import yaml
from charts import CHART, PROFILES, RELEASE, run_helm
from documents import DOCS, first_cells_dotted
from stack import REPOSITORY

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
GUIDE = (DOCS / "guides" / "kubernetes.md").read_text()
OPEN = ("annotations", "labels", "resources")  # tables of the user's own entries


@pytest.mark.parametrize("profile", PROFILES)
def test_lint_is_content(profile: str) -> None:
    done = run_helm("lint", "--strict", "--values", str(CHART / f"{profile}.yaml"), str(CHART))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("triton.replica=2", "'replica' not allowed"),
        ("triton.settings.HF_TOKEN=hf_secret", "invalid propertyName 'HF_TOKEN'"),
        ("gateway.settings.REQUEST_TIMEOUT_S=9", "invalid propertyName 'REQUEST_TIMEOUT_S'"),
        ("settings.MAX_SLOTS=4", "got number, want string"),
        ("images.tritonDigest=latest", "does not match pattern"),
        ("cache.kind=nfs", "must be one of 'pvc', 'hostPath', 'emptyDir'"),
        ("route.enabled=true", "minItems: got 0, want 1"),
        ("triton.replicas=2", "set cache.accessModes to [ReadWriteMany], or cache.kind to hostPath"),
        ("triton.autoscaling.kind=keda", "set cache.accessModes to [ReadWriteMany], or cache.kind to hostPath"),
    ],
)
def test_values_that_cannot_work_are_refused(setting: str, problem: str) -> None:
    done = run_helm("template", RELEASE, str(CHART), "--set", setting)
    assert done.returncode != 0
    assert problem in done.stderr


def test_chart_and_images_have_the_projects_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    assert chart["version"] == chart["appVersion"] == version


def paths_of(values: dict[str, Any], prefix: str = "") -> set[str]:
    """The dotted names of all values; the user's own tables count as one."""
    found = set()
    for name, value in values.items():
        if isinstance(value, dict) and value and name not in OPEN:
            found |= paths_of(value, f"{prefix}{name}.")
        else:
            found.add(f"{prefix}{name}")
    return found


def test_the_guide_has_every_value() -> None:
    assert first_cells_dotted(GUIDE, "Values") == paths_of(VALUES)


def test_profiles_change_known_values() -> None:
    for profile in PROFILES[1:]:
        changed = paths_of(yaml.safe_load((CHART / f"{profile}.yaml").read_text()))
        known = paths_of(VALUES)
        assert all(name in known or name.rsplit(".", 1)[0] in known for name in changed)
