"""Label Studio's own API, as far as the check needs it."""

import io
import json
import zipfile
from collections.abc import Mapping
from typing import Any, Final

import httpx2

from parts.label_studio.server import LabelStudio, LabelStudioFailed

TIMEOUT_S: Final = 120.0
EVERYTHING: Final = {"selectedItems": {"all": True, "excluded": []}}


class Api:
    """Asks as the server's user."""

    def __init__(self, server: LabelStudio) -> None:
        headers = {"Authorization": f"Token {server.token}"}
        self._client = httpx2.Client(base_url=server.url, headers=headers, timeout=TIMEOUT_S, trust_env=False)

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def create_project(self, title: str, interface: str, pictures: Mapping[str, bytes]) -> int:
        """A project with an interface and uploaded pictures, by file name; returns its id."""
        project = self._post("/api/projects", json={"title": title, "label_config": interface})["id"]
        for name, picture in pictures.items():
            self._post(f"/api/projects/{project}/import", files={"file": (name, picture)})
        return int(project)

    def connect(self, project: int, backend_url: str) -> dict[str, Any]:
        """Connects a machine learning backend; returns how Label Studio sees it."""
        backend = {"url": backend_url, "project": project, "title": "PaliGemma", "is_interactive": True}
        answer: dict[str, Any] = self._post("/api/ml", json=backend)
        return answer

    def interact(self, backend: int, task: int, typed: str) -> list[dict[str, Any]]:
        """What the backend finds when a user types a prompt into the interface; returns the regions."""
        region = {"type": "textarea", "from_name": "prompt", "to_name": "image", "value": {"text": [typed]}}
        body = {"task": task, "context": {"result": [region]}}
        regions: list[dict[str, Any]] = self._post(f"/api/ml/{backend}/interactive-annotating", json=body)["data"][
            "result"
        ]
        return regions

    def act(self, project: int, action: str) -> None:
        """Does one of the data manager's actions on all tasks."""
        self._post("/api/dm/actions", params={"id": action, "project": project}, json=EVERYTHING)

    def tasks(self, project: int) -> list[dict[str, Any]]:
        """All tasks, with their predictions."""
        params: dict[str, Any] = {"project": project, "fields": "all", "page_size": 100}
        tasks: list[dict[str, Any]] = self._get("/api/tasks", params).json()["tasks"]
        return [self._get(f"/api/tasks/{task['id']}", {}).json() for task in tasks]

    def export(self, project: int, kind: str) -> Any:
        """The annotations in one of Label Studio's formats: JSON as it is, or what is in an archive's one JSON file."""
        content = self._get(f"/api/projects/{project}/export", {"exportType": kind}).content
        if not content.startswith(b"PK"):
            return json.loads(content)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith(".json"))
            return json.loads(archive.read(name))

    def _get(self, path: str, params: dict[str, Any]) -> httpx2.Response:
        return _checked(self._client.get(path, params=params))

    def _post(self, path: str, **arguments: Any) -> Any:
        return _checked(self._client.post(path, **arguments)).json()


def _checked(response: httpx2.Response) -> httpx2.Response:
    if response.is_error:
        raise LabelStudioFailed(f"{response.request.url}: {response.status_code} {response.text[:500]}")
    return response
