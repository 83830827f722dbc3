"""The bodies of requests and answers; the OpenAPI schema is generated from them."""

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MAX_PROMPT_CHARACTERS: Final = 4096  # the engine's own limit
MAX_MODEL_ID_CHARACTERS: Final = 256
MAX_INT32: Final = 2**31 - 1  # the tensor is int32


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
    """The fields of a request, except the image."""

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
        Field(max_length=MAX_MODEL_ID_CHARACTERS, description="The model that answers; default: the server's own."),
    ] = None
    max_new_tokens: Annotated[int | None, Field(ge=1, le=MAX_INT32, description="Most tokens for each target.")] = None
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
            "upright; `normalized`: fractions of width and height (`full` and `rle` masks have the size of `image`)."
        ),
    ] = "input"
    return_image: Annotated[bool, Field(description="Whether to return the image that the model saw.")] = True
    overlay: Annotated[bool, Field(description="Whether to return a picture with masks, boxes and labels.")] = False
    min_score: Annotated[float, Field(ge=0, le=1, description="Leave out objects with a lower box score.")] = 0.0


class RunLengths(BaseModel):
    """A mask in COCO's run-length format; `pycocotools.mask.decode` reads it."""

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
    score: Annotated[float, Field(description="Box score in [0, 1]; not calibrated.")]
    mask_score: Annotated[float | None, Field(description="Mask score in [0, 1]; not calibrated.")]
    target: Annotated[int, Field(ge=0, description="Index in `targets` of the target that it answers.")]


class TargetEnd(BaseModel):
    """How the answer to one target ended."""

    target: Annotated[str, Field(description="As the prompt names it.")]
    finish_reason: Annotated[
        str,
        Field(
            description="`eos`: the answer is complete. Otherwise objects may be missing: `length`: "
            "max_new_tokens was reached; `deadline`: its time was up; `repeat`: the model began to repeat an object; "
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
    targets: Annotated[list[TargetEnd], Field(description="The prompt's targets, and how the answer to each ended.")]
    text: Annotated[str, Field(description="The model's output.")]
    model_id: str
    image_size: ImageSize
    timings_ms: Annotated[
        dict[str, float], Field(description="receive, fetch (of a URL), inference (queueing included), encode.")
    ]
    request_id: str
    overlay: Annotated[str | None, Field(description="Base64 PNG; null unless the request asks for it.")] = None


class Error(BaseModel):
    """The body of an error."""

    status: Literal["error"]
    detail: Annotated[str, Field(description="What happened and what to do, for people.")]
    code: Annotated[str, Field(description="The kind of error, for programs.")]
    request_id: str


class Models(BaseModel):
    """The models that requests can use."""

    default: Annotated[str, Field(description="The model that answers requests without `model_id`.")]
    allowed: Annotated[list[str], Field(description="Patterns of further ids that `model_id` may have.")]
    loaded: Annotated[list[str], Field(description="Models in memory, which answer at once.")]
    loading: Annotated[list[str], Field(description="Models being downloaded or loaded.")]
    dtypes: Annotated[
        dict[str, list[str]],
        Field(
            description="The number format that each loaded model computes in; several where replicas differ.",
            examples=[{"google/paligemma2-3b-mix-448": ["bfloat16"]}],
        ),
    ]


class Version(BaseModel):
    """Versions of the gateway and of Triton."""

    version: Annotated[str, Field(description="The gateway's version.")]
    triton: Annotated[str | None, Field(description="Triton's version; null if Triton cannot be reached.")]


class Welcome(BaseModel):
    """The answer of the root path."""

    message: str


class Health(BaseModel):
    """The answer of the health probes."""

    status: str


class PageFacts(BaseModel):
    """What the page /demo needs to know of the service before its first request."""

    keys: Annotated[bool, Field(description="Whether requests need a key.")]
    docs: Annotated[bool, Field(description="Whether /docs is served.")]
    url_fetch: Annotated[bool, Field(description="Whether `image_url` may be an http or https URL.")]
