"""The bodies of Roboflow's SAM 3 route (inference 3bb973b: core/entities/requests/sam3.py, responses/sam3.py)."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field

from gateway.dialects.targets import MAX_TARGETS_OF_A_REQUEST
from gateway.schemas import MAX_MODEL_ID_CHARACTERS, RunLengths, Text

Score = Annotated[float, Field(ge=0, le=1)]


class Prompt(BaseModel):
    """One thing to look for."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    type: Annotated[str | None, Field(description="`text`; other kinds are refused.")] = None
    text: Annotated[Text | None, Field(description="What to look for.")] = None
    output_prob_thresh: Annotated[Score | None, Field(description="Instead of the request's, for this prompt.")] = None
    boxes: Annotated[list[Any] | None, Field(description="Must be empty: the model understands text only.")] = None


class ConceptRequest(BaseModel):
    """The fields of a request, except the image."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    prompts: Annotated[list[Prompt], Field(min_length=1, max_length=MAX_TARGETS_OF_A_REQUEST), FailFast()]
    format: Annotated[
        Literal["polygon", "rle"], Field(description="`polygon`: outer outlines; `rle`: COCO's compressed run lengths.")
    ] = "polygon"
    output_prob_thresh: Annotated[Score, Field(description="Leaves out objects with a lower box score.")] = 0.5
    nms_iou_threshold: Annotated[
        Score | None,
        Field(description="Of objects whose masks overlap more, whatever their prompt, the best is kept. Null: all."),
    ] = None
    model_id: Annotated[
        Text | None,
        Field(max_length=MAX_MODEL_ID_CHARACTERS, description="`sam3/...` and null mean the server's default."),
    ] = None
    api_key: Annotated[str | None, Field(description="A key, where the gateway asks for one.")] = None


class Prediction(BaseModel):
    """One object."""

    masks: Annotated[
        list[list[tuple[int, int]]] | RunLengths,
        Field(description="Outlines of [x, y], or run lengths; in pixels of the sent image, upright."),
    ]
    confidence: Annotated[float, Field(description="Box score in [0, 1]; not calibrated.")]
    format: Literal["polygon", "rle"]


class Echo(BaseModel):
    """The prompt that was asked."""

    prompt_index: int
    type: Literal["text"] = "text"
    text: str
    num_boxes: int = 0


class PromptResult(BaseModel):
    """What was found of one prompt."""

    prompt_index: int
    echo: Echo
    predictions: list[Prediction]


class ConceptAnswer(BaseModel):
    """The answer to a request."""

    prompt_results: list[PromptResult]
    time: Annotated[float, Field(description="Seconds.")]
