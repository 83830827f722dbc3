"""What Label Studio sends (label_studio/ml/api_connector.py of 1.23.2); fields that are not read are left out."""

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, FailFast, Field, OnErrorOmit

# Label Studio sends all selected tasks in one request. This many exceed what can be answered in its time limit, and
# still need little memory. It sends unanswered tasks again with the next request.
MAX_TASKS: Final = 10_000
MAX_REGIONS: Final = 1000  # regions that a user has drawn or typed


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Task(_Read):
    """A picture to label.

    Attributes:
        data: its texts, by name; one of them names the picture.
    """

    id: int = 0
    data: dict[str, OnErrorOmit[str]] = {}


class ContextRegion(_Read):
    """A region that a user has just drawn or typed."""

    type: str = ""
    value: dict[str, OnErrorOmit[str | list[OnErrorOmit[str]]]] = {}


class Context(_Read):
    """The context of an interactive request."""

    result: Annotated[list[ContextRegion], Field(max_length=MAX_REGIONS), FailFast()] = []

    @property
    def typed(self) -> str:
        """Returns the text in the interface's text area; empty if there is none."""
        for region in self.result:
            text = region.value.get("text") if region.type == "textarea" else None
            lines = text if isinstance(text, list) else [text]
            if typed := " ".join(line for line in lines if isinstance(line, str)).strip():
                return typed
        return ""


class Parameters(_Read):
    """The parameters beside the tasks."""

    context: Context | None = None


class PredictBody(_Read):
    """POST predict."""

    tasks: Annotated[list[Task], Field(max_length=MAX_TASKS), FailFast()]
    label_config: str
    params: Parameters = Parameters()

    @property
    def typed(self) -> str:
        """The prompt of an interactive request; empty if it has none."""
        return self.params.context.typed if self.params.context is not None else ""


class SetupBody(_Read):
    """POST setup."""

    labelling_interface: str = Field(alias="schema")
