"""The bodies of requests and answers; FastAPI's documentation comes from here."""

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MAX_PROMPT_CHARACTERS: Final = 4096  # the engine's own limit
MAX_MODEL_ID_CHARACTERS: Final = 256
MAX_INT32: Final = 2**31 - 1  # what Triton's tensor can carry


def _check_encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half of a surrogate pair, which no encoding can carry") from error
    return text


Text = Annotated[str, AfterValidator(_check_encodable)]
MaskFormat = Literal["crop", "full", "rle", "polygon"]
CoordinateSpace = Literal["input", "original", "normalized"]
Ring = list[tuple[float, float]]


class SegmentForm(BaseModel):
    """The fields of a request beside its image."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    prompt: Annotated[
        Text,
        Field(
            max_length=MAX_PROMPT_CHARACTERS,
            description="What to look for, such as `segment left wheel`; targets joined by `;`.",
            examples=["segment left wheel"],
        ),
    ]
    model_id: Annotated[
        Text | None,
        Field(max_length=MAX_MODEL_ID_CHARACTERS, description="Which model shall answer; left out: the default one."),
    ] = None
    max_new_tokens: Annotated[
        int | None, Field(ge=1, le=MAX_INT32, description="Bound on the tokens for each target.")
    ] = None
    mask_format: Annotated[
        MaskFormat,
        Field(
            description="`crop`: a soft 64x64 PNG of the box's area; `full`: a binary PNG of the whole image; `rle`: "
            "COCO's run lengths; `polygon`: outlines."
        ),
    ] = "crop"
    coordinate_space: Annotated[
        CoordinateSpace,
        Field(
            description="`input`: pixels of the returned image; `original`: pixels of the image that was sent, "
            "upright; `normalized`: shares of width and height (masks of whole images have the returned image's size)."
        ),
    ] = "input"
    return_image: Annotated[bool, Field(description="Whether to return the image that the model saw.")] = True
    overlay: Annotated[bool, Field(description="Whether to add a picture with masks, boxes and labels.")] = False
    min_score: Annotated[float, Field(ge=0, le=1, description="Leave out objects with a lower box score.")] = 0.0


class RunLengths(BaseModel):
    """A mask as COCO has it; `pycocotools.mask.decode` reads it."""

    size: Annotated[tuple[int, int], Field(description="Height and width.")]
    counts: Annotated[str, Field(description="Compressed run lengths, column by column.")]


class Mask(BaseModel):
    """One object."""

    mask: Annotated[
        str | RunLengths | list[Ring] | None,
        Field(
            description="`crop` and `full`: a base64 PNG; `rle`: an object; `polygon`: a list of rings of [x, y], each "
            "closed, filled by the even-odd rule. Null where the prompt asked for boxes only."
        ),
    ]
    coordinates: Annotated[
        list[int | float], Field(description="x_min, y_min, x_max, y_max; whole pixels, except in normalized space.")
    ]
    label: Annotated[str, Field(description="What the object is.")]
    score: Annotated[float, Field(description="Of the box, in [0, 1]; not calibrated.")]
    mask_score: Annotated[float | None, Field(description="Of the mask, in [0, 1]; not calibrated.")]
    target: Annotated[int, Field(ge=0, description="Which of `targets` it answers, counted from 0.")]


class TargetEnd(BaseModel):
    """How the answer to one target ended."""

    target: Annotated[str, Field(description="As the prompt names it.")]
    finish_reason: Annotated[
        str,
        Field(
            description="`eos`: the answer is whole. Otherwise there may be more than is returned: `length`: "
            "max_new_tokens were reached; `deadline`: its time was up; `repeat`: the model began to repeat an object; "
            "`error`: it failed."
        ),
    ]


class ImageSize(BaseModel):
    """Size of the user's image in pixels, upright."""

    width: int
    height: int


class SegmentResponse(BaseModel):
    """The answer to a request."""

    image: Annotated[str | None, Field(description="Base64 PNG, RGB: the image as the model saw it.")]
    masks: Annotated[list[Mask], Field(description="The objects found; empty where there are none.")]
    targets: Annotated[list[TargetEnd], Field(description="What the prompt asks for, and how each answer ended.")]
    text: Annotated[str, Field(description="What the model wrote.")]
    model_id: str
    image_size: ImageSize
    timings_ms: Annotated[
        dict[str, float], Field(description="receive, fetch (of a URL), inference (queueing included), encode.")
    ]
    request_id: str
    overlay: Annotated[str | None, Field(description="Base64 PNG; only where asked for.")] = None


class Error(BaseModel):
    """Anything but success."""

    status: Literal["error"]
    detail: Annotated[str, Field(description="What the caller can do.")]
    code: Annotated[str, Field(description="What clients can switch on.")]
    request_id: str


class Models(BaseModel):
    """Which models there are."""

    default: Annotated[str, Field(description="Answers where a request names no model.")]
    allowed: Annotated[list[str], Field(description="Patterns of what `model_id` may name beside it.")]
    loaded: Annotated[list[str], Field(description="In memory: they answer at once.")]
    loading: Annotated[list[str], Field(description="Being fetched or loaded.")]


class Version(BaseModel):
    """What answers."""

    version: Annotated[str, Field(description="The gateway's.")]
    triton: Annotated[str | None, Field(description="Triton's; null where it cannot be reached.")]


class Welcome(BaseModel):
    """What the root says."""

    message: str


class Health(BaseModel):
    """What the probes say."""

    status: str
