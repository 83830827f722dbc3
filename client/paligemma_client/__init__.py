"""Client of the PaliGemma image segmentation server.

with Client("http://localhost:8000") as client:
    result = client.segment("picture.jpg", ["left wheel", "driver"])
for found in result.objects:
    print(found.label, found.score, found.box_xyxy, found.mask)
"""

from paligemma_client.client import AsyncClient, Client
from paligemma_client.errors import (
    ClientError,
    ConnectionFailed,
    DeadlineExceeded,
    FetchFailed,
    IncompleteAnswer,
    InvalidPicture,
    NotAllowed,
    RequestRefused,
    ServerBusy,
    ServerError,
    ServerFailed,
    UnsupportedCall,
)
from paligemma_client.masks import RunLengths
from paligemma_client.models import Models
from paligemma_client.objects import FoundObject, Result
from paligemma_client.pictures import Picture
from paligemma_client.targets import Target

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "ConnectionFailed",
    "DeadlineExceeded",
    "FetchFailed",
    "FoundObject",
    "IncompleteAnswer",
    "InvalidPicture",
    "Models",
    "NotAllowed",
    "Picture",
    "RequestRefused",
    "Result",
    "RunLengths",
    "ServerBusy",
    "ServerError",
    "ServerFailed",
    "Target",
    "UnsupportedCall",
]
