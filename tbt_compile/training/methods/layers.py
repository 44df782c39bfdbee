"""Students with fewer layers than their teacher."""

from __future__ import annotations

import copy
import re

from transformers import PreTrainedModel

from tbt_compile.errors import MethodError
from tbt_compile.training.terms import LayerMap

_LAYER = re.compile(r"\b(encoder|decoder)\.layers\.(\d+)\.")


def spread_layers(count: int, total: int) -> tuple[int, ...]:
    """`count` evenly spaced layer indices out of `total`; the last one if `count` is 1.

    >>> spread_layers(3, 6), spread_layers(1, 6)
    ((0, 2, 5), (5,))
    """
    if count == 1:
        return (total - 1,)
    return tuple(index * (total - 1) // (count - 1) for index in range(count))


def layer_counts(teacher: PreTrainedModel) -> tuple[int, int]:
    """The numbers of encoder and decoder layers.

    Raises:
        MethodError: the teacher's config does not have them.
    """
    counts = [getattr(teacher.config, name, None) for name in ("encoder_layers", "decoder_layers")]
    if None in counts:
        raise MethodError(
            f"a {type(teacher).__name__} as teacher: expected one of the BART family, whose config has "
            "encoder_layers and decoder_layers"
        )
    return counts[0], counts[1]  # type: ignore[return-value]


def layer_map(teacher: PreTrainedModel, encoder: int, decoder: int) -> LayerMap:
    """The layer map of a shallower student.

    Args:
        teacher: of the BART family.
        encoder, decoder: layers of the student.

    Raises:
        MethodError: the teacher has fewer layers, or its config does not say how many.
    """
    counts = layer_counts(teacher)
    for name, asked, there in zip(("encoder", "decoder"), (encoder, decoder), counts, strict=True):
        if not 1 <= asked <= there:
            raise MethodError(
                f"a student with {asked} {name} layers of a teacher with {there}: expected 1 to {there}"
            )
    return LayerMap(spread_layers(encoder, counts[0]), spread_layers(decoder, counts[1]))


def reduced_copy(teacher: PreTrainedModel, layers: LayerMap) -> PreTrainedModel:
    """A full-precision copy of the teacher with only the mapped layers."""
    config = copy.deepcopy(teacher.config)
    config.encoder_layers, config.decoder_layers = len(layers.encoder), len(layers.decoder)
    config.num_hidden_layers = config.encoder_layers
    student = type(teacher)(config)
    new = {
        (side, old): position
        for side in ("encoder", "decoder")
        for position, old in enumerate(getattr(layers, side))
    }
    state = {}
    for name, tensor in teacher.state_dict().items():
        match = _LAYER.search(name)
        if match is None:
            state[name] = tensor
        elif (match[1], int(match[2])) in new:
            position = new[match[1], int(match[2])]
            state[f"{name[: match.start(2)]}{position}{name[match.end(2) :]}"] = tensor
    student.load_state_dict(state)
    student.generation_config = copy.deepcopy(teacher.generation_config)
    return student.eval()
