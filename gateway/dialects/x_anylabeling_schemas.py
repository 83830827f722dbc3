"""The bodies of X-AnyLabeling's protocol (X-AnyLabeling-Server 70599dc: app/schemas, app/models, configs)."""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.schemas import MAX_MODEL_ID_CHARACTERS, Text

EPSILON_FACTOR: Final = 0.001  # the original's default
POLYGONS: Final = "polygons"
RECTANGLES: Final = "rectangles"

# The client's widgets and their values; the slider's 10 is an epsilon_factor of 0.001.
_COMMON_WIDGETS: Final[dict[str, Any]] = {
    "edit_text": None,
    "button_send": None,
    "input_conf": None,
    "edit_conf": 0.0,
    "toggle_preserve_existing_annotations": False,
}
_POLYGON_WIDGETS: Final[dict[str, Any]] = {"mask_fineness_slider": 10, "mask_fineness_value_label": None}
_PLACEHOLDER: Final = "cat, left wheel"


class PredictParams(BaseModel):
    """The values of the client's widgets; widgets of other models are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    text_prompt: Annotated[Text, Field(description="What to look for; several prompts by commas or full stops.")] = ""
    conf_threshold: Annotated[float, Field(ge=0, le=1, description="Leaves out objects with a lower box score.")] = 0.0
    epsilon_factor: Annotated[
        float, Field(ge=0, le=1, description="How far outlines may be simplified, as a share of their length.")
    ] = EPSILON_FACTOR
    current_task: Annotated[
        str | None, Field(description=f"`{RECTANGLES}` for boxes; anything else is `{POLYGONS}`.")
    ] = None


class PredictRequest(BaseModel):
    """The fields of a request, except the image."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    model: Annotated[
        Text | None,
        Field(max_length=MAX_MODEL_ID_CHARACTERS, description="One of /v1/models; null: the default."),
    ] = None
    params: PredictParams = PredictParams()


class Shape(BaseModel):
    """One object in the format of the client's label files."""

    label: Annotated[str, Field(description="The prompt that it answers, as it was written.")]
    shape_type: Literal["polygon", "rectangle"]
    points: Annotated[
        list[tuple[float, float]],
        Field(description="[x, y] in pixels of the sent picture, upright; a polygon's last point is its first."),
    ]
    score: Annotated[float, Field(description="Box score in [0, 1]; not calibrated.")]
    attributes: dict[str, Any] = {}
    description: str | None = None
    difficult: bool = False
    direction: float = 0.0
    flags: dict[str, Any] | None = None
    group_id: int | None = None
    kie_linking: list[Any] = []


class Shapes(BaseModel):
    """The shapes for the client's picture."""

    shapes: list[Shape] = []
    description: str = ""
    replace: Annotated[
        bool | None, Field(description="Whether the picture's shapes are replaced; null: as the client is set.")
    ] = None


class Answer(BaseModel):
    """A success of /v1/predict."""

    success: Literal[True] = True
    data: Shapes


class Problem(BaseModel):
    """What went wrong."""

    code: Annotated[str, Field(description="The kind of error, for programs.")]
    message: Annotated[str, Field(description="What happened and what to do, for people.")]


class Failure(BaseModel):
    """An error; its data leaves the client's picture unchanged."""

    success: Literal[False] = False
    error: Problem
    data: Shapes = Shapes(replace=False)


class ModelInfo(BaseModel):
    """A model in the client's list."""

    display_name: str
    batch_processing_mode: Annotated[str, Field(description="The client asks for a text, and sends it with each file.")]
    params: dict[str, Any] = {}
    capabilities: dict[str, Any] = {}
    widgets: list[dict[str, Any]]
    available_tasks: list[dict[str, Any]]

    @classmethod
    def of(cls, model_id: str) -> "ModelInfo":
        """Every model answers a text with polygons or rectangles."""
        widgets = {**_COMMON_WIDGETS, **_POLYGON_WIDGETS}
        return cls(
            display_name=model_id,
            batch_processing_mode="text_prompt",
            widgets=[{"name": name, "value": value} for name, value in widgets.items()],
            available_tasks=[
                _task(POLYGONS, "Polygons", "The outline of each object", widgets),
                _task(RECTANGLES, "Rectangles", "The box of each object", _COMMON_WIDGETS),
            ],
        )


class ModelsAnswer(BaseModel):
    """A success of /v1/models: what is known of models, by id."""

    success: Literal[True] = True
    data: dict[str, ModelInfo]


class ModelAnswer(BaseModel):
    """A success of /v1/models/{model_id}/info."""

    success: Literal[True] = True
    data: dict[str, Any]


def _task(task_id: str, name: str, description: str, widgets: dict[str, Any]) -> dict[str, Any]:
    shown = {widget: {"placeholder": _PLACEHOLDER} if widget == "edit_text" else {} for widget in widgets}
    return {
        "id": task_id,
        "name": name,
        "description": description,
        "batch_processing_mode": "text_prompt",
        "active_widgets": shown,
    }
