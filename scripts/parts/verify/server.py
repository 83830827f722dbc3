"""Sends requests to the running server over gRPC."""

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Self

import numpy as np
import tritonclient.grpc as grpcclient
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from paligemma_engine.requests.request import Answer, TargetAnswer, Token
from parts.segment_inputs import segment_inputs
from parts.verify.cases import Case
from parts.verify.errors import CannotVerify

MODELS: Final = ("paligemma", "mask_decoder")
ANSWER_TIMEOUT_S: Final = 600.0  # a model that is not in memory is loaded first


class Server:
    """A server's `paligemma` and `mask_decoder`; a context."""

    def __init__(self, address: str, model_id: str, *, max_new_tokens: int) -> None:
        """`address`: host and port of Triton's gRPC. `model_id`: the model. `max_new_tokens`: for each target."""
        self._address = address
        self._model_id = model_id
        self._max_new_tokens = max_new_tokens

    def __enter__(self) -> Self:
        self._client: Any = grpcclient.InferenceServerClient(self._address)
        try:
            missing = [name for name in MODELS if not self._client.is_model_ready(name)]
        except InferenceServerException as error:
            self._client.close()
            raise CannotVerify(f"no server answers at {self._address}; start it, or set --server ({error})") from error
        if missing:
            self._client.close()
            raise CannotVerify(f"the server at {self._address} has no {missing[0]} that is ready; wait for its start")
        return self

    def __exit__(self, *_exception: object) -> None:
        self._client.close()

    def ask(self, case: Case) -> Answer:
        """Returns `paligemma`'s answer to a case; raises CannotVerify if the server refuses it."""
        inputs = segment_inputs(case.picture.encoded, case.prompt, self._max_new_tokens, self._model_id)
        return _read(self._infer("paligemma", inputs, what=case.name))

    def ask_many(self, cases: Sequence[Case], *, clients: int) -> list[Answer]:
        """Sends all cases in random order from `clients` clients at once; returns the answers in the cases' order."""
        order = random.Random(0).sample(range(len(cases)), len(cases))
        with ThreadPoolExecutor(clients) as pool:
            answers = dict(zip(order, pool.map(lambda index: self.ask(cases[index]), order), strict=True))
        return [answers[index] for index in range(len(cases))]

    def decode_masks(self, codes: NDArray[np.int32]) -> NDArray[np.float32]:
        """Decodes codes int32[N, 16] with `mask_decoder` to masks float32[N, 64, 64]."""
        tensor = grpcclient.InferInput("codes", list(codes.shape), "INT32").set_data_from_numpy(codes)
        masks: NDArray[np.float32] = self._infer("mask_decoder", [tensor], what="codes").as_numpy("masks")
        return masks

    def _infer(self, model: str, inputs: list[Any], *, what: str) -> Any:
        try:
            return self._client.infer(model, inputs, client_timeout=ANSWER_TIMEOUT_S)
        except InferenceServerException as error:
            raise CannotVerify(f"the server did not answer ({what}): {error.message()}") from error


def _read(result: Any) -> Answer:
    tokens, logprobs, sequence = (result.as_numpy(name) for name in ("tokens", "logprobs", "sequence"))
    targets, reasons = result.as_numpy("targets"), result.as_numpy("finish_reason")
    height, width = result.as_numpy("image_size").tolist()
    return Answer(
        targets=tuple(
            TargetAnswer(
                target=target.decode(),
                tokens=tuple(
                    Token(text.decode(), float(logprob))
                    for text, logprob, owner in zip(tokens, logprobs, sequence, strict=True)
                    if owner == index
                ),
                finish_reason=reason.decode(),
            )
            for index, (target, reason) in enumerate(zip(targets, reasons, strict=True))
        ),
        input_image=result.as_numpy("input_image"),
        original_hw=(height, width),
    )
