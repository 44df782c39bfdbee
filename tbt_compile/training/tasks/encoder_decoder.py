"""Encoder-decoders of text: a source in, a target out."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from tbt_compile.data.examples import IGNORED_LABEL
from tbt_compile.training.tasks.base import Inputs, Stack, Task

_CROSS = ("encoder_attn", "EncDecAttention")


class EncoderDecoderTask(Task):
    """Batches have `input_ids` and `attention_mask` `[B, S]`, and `labels` `[B, T]`, -100 at padding."""

    kind = "encoder-decoder"

    def takes(self, model: PreTrainedModel) -> bool:
        """Whether the model has a decoder, and an encoder that takes token ids."""
        return self.has_decoder(model) and model.main_input_name == "input_ids"

    def has_decoder(self, model: PreTrainedModel) -> bool:
        """Whether the model is an encoder-decoder that writes text."""
        return bool(getattr(model.config, "is_encoder_decoder", False)) and model.can_generate()

    def without_labels(self, inputs: Inputs, model: PreTrainedModel) -> dict[str, Any]:
        """Replace the labels by the decoder inputs they imply; a model that cannot shift them keeps them."""
        shift = getattr(model, "prepare_decoder_input_ids_from_labels", None)
        if shift is None:
            return dict(inputs)
        kept = {name: value for name, value in inputs.items() if name != "labels"}
        return {**kept, "decoder_input_ids": shift(labels=inputs["labels"]), "use_cache": False}

    def scored(self, inputs: Inputs) -> Tensor:
        """Bool `[B, T]`: tokens of the target."""
        return inputs["labels"] != IGNORED_LABEL

    def logits(self, outputs: Any, inputs: Inputs) -> Tensor:
        """The logits of the target's tokens."""
        return outputs.logits[self.scored(inputs)]

    def stacks(self, outputs: Any, inputs: Inputs) -> dict[str, Stack]:
        """The encoder, the decoder, and its attention to the encoder."""
        sources, targets = self.sources(outputs, inputs), self.scored(inputs)

        def given(name: str) -> Any:
            return getattr(outputs, name, None) or ()

        return {
            "encoder": Stack(given("encoder_hidden_states"), given("encoder_attentions"), sources, sources),
            "decoder": Stack(
                given("decoder_hidden_states"), given("decoder_attentions"), targets, targets, causal=True
            ),
            "cross": Stack((), given("cross_attentions"), targets, sources),
        }

    def stack_of(self, module: str) -> str:
        """By the names of BART and T5."""
        if "decoder" not in module:
            return "encoder"
        return "cross" if module.endswith(_CROSS) else "decoder"

    def sources(self, outputs: Any, inputs: Inputs) -> Tensor:  # noqa: ARG002
        """Bool `[B, S]`: positions of the encoder that are no padding."""
        return inputs["attention_mask"].bool()
