"""BinaryBERT: a ternary student of half the width, whose weights are split into binary ones."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import PreTrainedModel

from tbt_compile.data.batches import Corpus
from tbt_compile.errors import MethodError
from tbt_compile.modules import iter_quantized
from tbt_compile.preparation import prepare
from tbt_compile.quantizers.split import SplitWeightQuantizer
from tbt_compile.recipe import Recipe
from tbt_compile.training.methods.base import Method
from tbt_compile.training.methods.staged import FIRST_STAGE
from tbt_compile.training.methods.ternarybert import layerwise
from tbt_compile.training.run import TrainingRun
from tbt_compile.training.stages import distill

SPLIT = ("*.fc1", "*.fc2")
_WIDTHS = ("encoder_ffn_dim", "decoder_ffn_dim")


class BinaryBertMethod(Method):
    """Bai et al. 2021 (arXiv:2012.15701), for encoder-decoders.

    There a ternary network of half the width is trained, each of its matrices is split into two binary ones
    that add up to it (`split_ternary`), and the sum is trained further. Here "half the width" are the
    feed-forward layers, which keep the half of their neurons with the largest product of the norms of their
    weights; they are split, and so are as large as those of a binary model of full width. Embeddings and
    attention keep their width, start as the latent weights of the ternary student, and become binary
    directly (Eq. 4-5). Learned scales for activations below 8 bits (LSQ), not centred. Both stages have the
    loss `layerwise` and half of the steps.
    """

    def train(
        self, teacher: PreTrainedModel, notation: str, corpus: Corpus, run: TrainingRun
    ) -> PreTrainedModel:
        """The ternary student is kept in the folder `ternary` below the student's."""
        recipe = self.recipe(notation)
        ternary_recipe = Recipe.parse(FIRST_STAGE[notation], **{**self.options, "split": ()})
        objective, second = layerwise(teacher), run.half(len(corpus))

        def split(of: PreTrainedModel) -> PreTrainedModel:
            ternary = distill(
                of,
                ternary_recipe,
                corpus,
                second.first_stage("ternary"),
                objective=objective,
                start=lambda model: prepare(narrow_copy(model), ternary_recipe),
            )
            return split_copy(ternary, narrow_copy(of), recipe)

        return distill(teacher, recipe, corpus, second, objective=objective, start=split)


def narrow_copy(teacher: PreTrainedModel) -> PreTrainedModel:
    """A full-precision copy with half of the neurons in every feed-forward layer.

    Raises:
        MethodError: the teacher has no such layers under the names of the BART family.
    """
    config = copy.deepcopy(teacher.config)
    for name in _WIDTHS:
        if getattr(config, name, None) is None:
            raise MethodError(
                f"a {type(teacher).__name__} as teacher: expected one of the BART family ({name})"
            )
        setattr(config, name, getattr(config, name) // 2)
    narrow = type(teacher)(config)
    state = teacher.state_dict()
    for name, module in narrow.named_modules():
        if hasattr(module, "fc1") and hasattr(module, "fc2"):
            incoming, outgoing = state[f"{name}.fc1.weight"], state[f"{name}.fc2.weight"]
            importance = incoming.norm(dim=1) * outgoing.norm(dim=0)
            kept = importance.topk(module.fc1.out_features).indices.sort().values
            state[f"{name}.fc1.weight"] = incoming[kept]
            state[f"{name}.fc1.bias"] = state[f"{name}.fc1.bias"][kept]
            state[f"{name}.fc2.weight"] = outgoing[:, kept]
    narrow.load_state_dict(state)
    narrow.generation_config = copy.deepcopy(teacher.generation_config)
    return narrow.eval()


@torch.no_grad()
def split_copy(ternary: PreTrainedModel, narrow: PreTrainedModel, recipe: Recipe) -> PreTrainedModel:
    """`narrow`, prepared with `recipe`, with the latent weights of a prepared ternary model, split."""
    latent = ternary.state_dict()
    narrow.load_state_dict({name: latent[name] for name in narrow.state_dict()})
    binary = prepare(narrow, recipe)
    for _, module in iter_quantized(binary):
        quantizer: Any = getattr(module, "weight_quantizer", None)
        if isinstance(quantizer, SplitWeightQuantizer):
            quantizer.split(module.weight)
    return binary


BINARYBERT = BinaryBertMethod(
    "binarybert",
    "BinaryBERT",
    "Bai et al. 2021, BinaryBERT: Pushing the Limit of BERT Quantization (arXiv:2012.15701)",
    tuple(FIRST_STAGE),
    {
        "weight_method": "l2",
        "center_weights": False,
        "ste": "identity",
        "center_activations": False,
        "split": SPLIT,
    },
)
