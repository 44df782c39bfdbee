"""BinaryBERT: ternary weight splitting of a half-width student into a binary one."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import PreTrainedModel

from tbt_compile.adapters import adapter_for
from tbt_compile.data.batches import Corpus
from tbt_compile.errors import MethodError
from tbt_compile.modules import iter_quantized
from tbt_compile.passes.prepare.rotated_weights import rotate_back
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
    """BinaryBERT, for encoder-decoders (Bai et al. 2021, arXiv:2012.15701).

    The paper trains a ternary network of half the width, splits each matrix into two binary ones that sum to
    it (`split_ternary`), and fine-tunes the sum. Here only the feed-forward layers are halved: they keep the
    neurons with the largest product of incoming and outgoing weight norms, and splitting brings them to the
    size of a full-width binary model. Embeddings and attention keep their width, start from the latent
    weights of the ternary student, and are binarized directly (Eq. 4-5 of the TBT paper). Activations below
    8 bits have learned scales (LSQ) and are not centred. Both stages use the loss `layerwise` and half of the
    steps.
    """

    def train(
        self, teacher: PreTrainedModel, notation: str, corpus: Corpus, run: TrainingRun
    ) -> PreTrainedModel:
        """Train the ternary student in the subfolder `ternary`, then its binary split.

        Args:
            teacher, notation, corpus, run: as for `Method.train`.

        Returns:
            The prepared student.
        """
        recipe = self.recipe(notation)
        ternary_recipe = Recipe.parse(FIRST_STAGE[notation], **{**self.options, "split": ()})
        objective, second = layerwise(teacher), run.half(len(corpus))

        def split(original: PreTrainedModel) -> PreTrainedModel:
            ternary = distill(
                original,
                ternary_recipe,
                corpus,
                second.first_stage("ternary"),
                objective=objective,
                start=lambda model: prepare(narrow_copy(model), ternary_recipe),
            )
            return split_copy(ternary, narrow_copy(original), recipe)

        return distill(teacher, recipe, corpus, second, objective=objective, start=split)


def narrow_copy(teacher: PreTrainedModel) -> PreTrainedModel:
    """A full-precision copy with half the neurons in every feed-forward layer.

    Raises:
        MethodError: the teacher has no feed-forward layers under the BART family's names.
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
    """Split the weights of a ternary student into a binary one.

    Args:
        ternary: a trained, prepared model; its latent weights are copied.
        narrow: a full-precision model of the same shape, changed in place.
        recipe: of the binary student; it names the layers to split.

    Returns:
        `narrow`, prepared with `recipe`.
    """
    latent = ternary.state_dict()
    narrow.load_state_dict({name: latent[name] for name in narrow.state_dict()})
    adapter = adapter_for(narrow)
    rotate_back(narrow, adapter, adapter.stored_recipe(ternary))
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
