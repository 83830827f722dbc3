"""The losses of the model's parts."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import nn

from mask_vae import layout
from paligemma_tokens.vocabulary import LOC_BINS
from parts.training.answers import AnswerTokens
from parts.training.batches import Batch
from parts.training.names import COLOURS, KINDS
from parts.training.network import CORNERS, TrainedNetwork

OBJECT_SHARE: Final = 0.08  # an object is in a patch if it covers at least this share of it
_FIRST_TOKEN_WEIGHT: Final = 3.0  # the first token decides whether there is an object at all
_LABEL_SMOOTHING: Final = 0.05
_SELECTED_WEIGHT: Final = 3.0  # most patches are not selected

Figures = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Targets:
    """A batch's objects as the losses need them.

    Attributes:
        codes: int64[N, 16].
        boxes: float[N, 4, 1024], the target distribution of each side's loc token.
        code_distributions: float[N, 16, 128].
        pooling: float[N, patches], weights of the mean over an object's patches; rows sum to 1.
    """

    codes: torch.Tensor
    boxes: torch.Tensor
    code_distributions: torch.Tensor
    pooling: torch.Tensor


def make_targets(batch: Batch, codes: torch.Tensor, soft: torch.Tensor, tokens: AnswerTokens) -> Targets:
    """Makes the targets from the objects' codes int64[N, 16] and the tokens' soft targets float[V, V]."""
    bins = tokens.loc_bins(batch.boxes)
    locs = soft[tokens.first_loc :, tokens.first_loc :][:LOC_BINS, :LOC_BINS]
    segs = soft[tokens.first_seg :, tokens.first_seg :][: layout.CODEBOOK_SIZE, : layout.CODEBOOK_SIZE]
    inside = (batch.shares >= OBJECT_SHARE) * batch.shares
    inside = torch.where(inside.sum(1, keepdim=True) > 0, inside, batch.shares)
    return Targets(codes, locs[bins], segs[codes], inside / inside.sum(1, keepdim=True))


def vision_loss(
    network: TrainedNetwork, features: torch.Tensor, batch: Batch, targets: Targets
) -> tuple[torch.Tensor, Figures]:
    """Loss of each patch's content and each object's box and mask, from the vision tower's float[B, P, width]."""
    kinds, colours = patch_labels(batch, features.shape[:2])
    kind_loss = nn.functional.cross_entropy(
        network.kind_head(features).float().flatten(0, 1), kinds.flatten(), label_smoothing=_LABEL_SMOOTHING
    )
    colour_loss = nn.functional.cross_entropy(network.colour_head(features).float().flatten(0, 1), colours.flatten())
    pooled = torch.einsum("np,npd->nd", targets.pooling, features[batch.pictures].float())
    box_loss, code_loss, figures = _object_loss(network.vision_objects(pooled, *network.token_rows), targets)
    with torch.no_grad():
        there = kinds != len(KINDS)
        right = network.kind_head(features).argmax(-1) == kinds
        figures |= {"kind": right[there].float().mean(), "background": right[~there].float().mean()}
    return 2 * kind_loss + colour_loss + box_loss + code_loss, figures


def selection_loss(
    network: TrainedNetwork, hidden: torch.Tensor, batch: Batch, targets: Targets
) -> tuple[torch.Tensor, Figures]:
    """Loss of the selected patches and the selected object's box and mask, from image positions float[S, P, width]."""
    wanted = torch.zeros(hidden.shape[:2], device=hidden.device)
    for index, asked in enumerate(batch.asked):
        for target in asked.targets:
            wanted[index] = torch.maximum(wanted[index], (batch.shares[target] >= OBJECT_SHARE).float())
    logits = network.selection_head(network.selection_norm(hidden)).float()[..., 0]
    weight = 1 + (_SELECTED_WEIGHT - 1) * wanted
    loss = nn.functional.binary_cross_entropy_with_logits(logits, wanted, weight)
    single = [(index, asked.targets[0]) for index, asked in enumerate(batch.asked) if len(asked.targets) == 1]
    figures: Figures = {}
    if single:
        rows = torch.tensor([index for index, _ in single], device=hidden.device)
        objects = torch.tensor([target for _, target in single], device=hidden.device)
        pooled = torch.einsum("np,npd->nd", targets.pooling[objects], hidden[rows].float())
        meant = Targets(
            targets.codes[objects],
            targets.boxes[objects],
            targets.code_distributions[objects],
            targets.pooling[objects],
        )
        box_loss, code_loss, figures = _object_loss(network.selected_object(pooled, *network.token_rows), meant)
        loss = 4 * loss + 0.5 * (box_loss + code_loss)
    with torch.no_grad():
        chosen = logits > 0
        hits = (chosen & (wanted > 0)).sum().float()
        figures = {f"selected_{name}": figure for name, figure in figures.items()}
        figures["f1"] = 2 * hits / (chosen.sum() + wanted.sum()).clamp_min(1)
    return loss, figures


def answer_loss(
    logits: torch.Tensor, labels: torch.Tensor, soft: torch.Tensor, tokens: AnswerTokens
) -> tuple[torch.Tensor, Figures]:
    """Cross entropy to the soft targets float[V, V], for logits float[S, L, V'] and labels int64[S, L] (-100: none)."""
    places = labels >= 0
    logprobs = logits[places].log_softmax(-1)
    right = labels[places]
    losses = -(soft[right] * logprobs[:, : soft.shape[1]]).sum(-1)
    weights = torch.ones_like(losses)
    firsts = torch.zeros_like(places)
    firsts[torch.arange(len(labels), device=labels.device), places.int().argmax(1)] = True
    weights[firsts[places]] = _FIRST_TOKEN_WEIGHT
    with torch.no_grad():
        guessed = logprobs.argmax(-1)
        is_loc = (right >= tokens.first_loc) & (right < tokens.first_loc + LOC_BINS)
        is_seg = (right >= tokens.first_seg) & (right < tokens.first_seg + layout.CODEBOOK_SIZE)
        both = is_loc & (guessed >= tokens.first_loc) & (guessed < tokens.first_loc + LOC_BINS)
        figures = {
            "code": (guessed == right)[is_seg].float().mean(),
            "bins_off": (guessed - right)[both].abs().float().median() if both.any() else torch.tensor(LOC_BINS),
            "empty_or_not": ((guessed == tokens.eos) == (right == tokens.eos))[firsts[places]].float().mean(),
        }
    return (losses * weights).sum() / weights.sum(), figures


def patch_labels(batch: Batch, shape: torch.Size) -> tuple[torch.Tensor, torch.Tensor]:
    """int64[B, P] each: kind and colour of the object that covers most of a patch; background is the highest label."""
    device = batch.shares.device
    most = torch.full(shape, OBJECT_SHARE, device=device)
    kinds = torch.full(shape, len(KINDS), device=device)
    colours = torch.full(shape, len(COLOURS), device=device)
    for index, picture in enumerate(batch.pictures.tolist()):
        more = batch.shares[index] > most[picture]
        most[picture] = torch.where(more, batch.shares[index], most[picture])
        kinds[picture] = torch.where(more, batch.kinds[index], kinds[picture])
        colours[picture] = torch.where(more, batch.colours[index], colours[picture])
    return kinds, colours


def _object_loss(
    logits: tuple[torch.Tensor, torch.Tensor], targets: Targets
) -> tuple[torch.Tensor, torch.Tensor, Figures]:
    """Cross entropies of the boxes' sides and of the codes, for logits [N, 4, 1024] and [N, 16, 128]."""
    corners, codes = (part.float().log_softmax(-1) for part in logits)
    assert corners.shape[1] == CORNERS
    box_loss = -(targets.boxes * corners).sum(-1).mean()
    code_loss = -(targets.code_distributions * codes).sum(-1).mean()
    with torch.no_grad():
        figures = {
            "bins": (corners.argmax(-1) - targets.boxes.argmax(-1)).abs().float().median(),
            "codes": (codes.argmax(-1) == targets.codes).float().mean(),
        }
    return box_loss, code_loss, figures
