"""Replaces plain linear layers by other ones."""

from collections.abc import Callable, Iterable
from typing import Any, Final

from torch import nn

from paligemma_engine.layers.int8_linear import Int8Linear
from paligemma_engine.layers.joined_linears import JoinedLinear, JoinedLinears
from paligemma_engine.layers.mapped_files import MappedFiles
from paligemma_engine.layers.packed_linear import PackedLinear

# Layers that are called with the same input, in this order: names in transformers' Gemma and Gemma 2.
_SAME_INPUT: Final = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


def replace_linears(modules: Iterable[nn.Module], make: Callable[[nn.Linear], nn.Module]) -> None:
    """Replaces each linear layer of these modules, one at a time; keeps other layers, such as quantised ones.

    Pages of mapped files with the plain weights are dropped at once: the mapping itself stays as long as any tensor of
    the file is in use.
    """
    mapped = MappedFiles.of_this_process()
    for parent in (parent for module in modules for parent in module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:  # quantised layers inherit from it
                setattr(parent, name, make(child))
                mapped.give_back(child.weight)


def join_linears(modules: Iterable[nn.Module], make: Callable[[nn.Linear], nn.Module]) -> None:
    """Does as `replace_linears` does, for layers with the same input, which become one; leaves all others."""
    mapped = MappedFiles.of_this_process()
    for parent in (parent for module in modules for parent in list(module.modules())):
        for names in _SAME_INPUT:
            children: list[Any] = [getattr(parent, name, None) for name in names]
            linears = [child for child in children if type(child) is nn.Linear and child.bias is None]
            if len(linears) == len(names):
                joined = JoinedLinears(linears, make)
                for number, (name, linear) in enumerate(zip(names, linears, strict=True)):
                    setattr(parent, name, JoinedLinear(joined, number))
                    mapped.give_back(linear.weight)


def replace_head(model: Any, make: Callable[[nn.Linear], nn.Module]) -> None:
    """Replaces the head of a PaliGemma, unless it has been replaced; the embedding stays as it is."""
    head = model.lm_head
    if type(head) is nn.Linear:
        model.lm_head = make(head)
        MappedFiles.of_this_process().give_back(head.weight)


def pack_linears(model: Any) -> None:
    """Packs all linear layers of a PaliGemma; the head only if memory does not grow by it.

    In most checkpoints head and embedding share a weight, which must stay for the embedding. If it is a view of its
    file, only the few rows that are looked up take memory. The head is the largest layer by far. It comes first, while
    the other weights are not yet read from their files, so that memory never exceeds the weights by its size.
    """
    head, embedding = model.lm_head, model.get_input_embeddings()
    if type(head) is nn.Linear and (
        head.weight is not embedding.weight or MappedFiles.of_this_process().hold(head.weight)
    ):
        replace_head(model, PackedLinear)
    replace_linears([model.model], PackedLinear)


def weight_bytes(model: nn.Module) -> int:
    """Returns the bytes of a model's weights, with those of replaced layers."""
    replaced = sum(module.weight_bytes for module in model.modules() if isinstance(module, Int8Linear | PackedLinear))
    return replaced + sum(weight.nbytes for weight in model.parameters())
