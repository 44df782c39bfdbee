"""A compiled encoder-decoder model behind transformers' `generate`.

It adds what `CompiledModel.generate` leaves out: transformers' sampling, logits processors, stopping criteria
and streamers. A decode step takes 0.5 to 2 ms longer than in `CompiledModel.generate`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Cache, GenerationConfig, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from tbt_compile.errors import GenerationError
from tbt_compile.runtime.compiled_model import CompiledModel
from tbt_compile.runtime.generation import DecoderSession, Scores


class SessionCache(Cache):
    """transformers' view of the KV cache of one batch, which stays packed inside a decoder session.

    Args:
        session: a decoder session before its first step.
        rows: number of sequences that it decodes.
        expand: maps the session's logits `[rows, n]` to the whole vocabulary, `[rows, V]`.

    Attributes:
        session: as above.
        rows: the current number of sequences; `reorder_cache` changes it.
    """

    def __init__(self, session: DecoderSession, rows: int, expand: Callable[[Scores], Scores]) -> None:
        super().__init__(layers=[])
        self.session = session
        self._expand = expand
        self.rows = rows
        self._length = 0

    def step(self, tokens: Tensor) -> Tensor:
        """Append tokens, int64 [rows, q]; return the logits of the last position, float32 [rows, 1, V].

        Raises:
            GenerationError: the tokens have another shape.
        """
        if tokens.ndim != 2 or len(tokens) != self.rows:
            raise GenerationError(
                f"decoder_input_ids has shape {list(tokens.shape)}: expected [{self.rows}, tokens]"
            )
        logits = self._expand(self.session.step(np.ascontiguousarray(tokens.numpy())))
        self._length += tokens.shape[1]
        return torch.from_numpy(logits)[:, None]

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002 - every layer has the same
        """Return the number of decoder tokens so far."""
        return self._length

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Replace the rows by the current rows at the indices `beam_idx`, int64 [rows]."""
        self.session.reorder(beam_idx.numpy())
        self.rows = len(beam_idx)

    def update(self, *_: Any, **__: Any) -> Any:
        """Refuse keys and values from outside: only the compiled decoder writes its cache.

        Raises:
            GenerationError: always.
        """
        raise GenerationError(
            "a compiled model's cache cannot be written: it is part of the compiled decoder"
        )


class CompiledEncoder(nn.Module):
    """The compiled encoder as a module, for `get_encoder()`."""

    main_input_name = "input_ids"

    def __init__(self, compiled: CompiledModel) -> None:
        super().__init__()
        self.compiled = compiled

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any
    ) -> BaseModelOutput:
        """Encode a batch.

        Args:
            input_ids: int64 [B, S], padded on the right.
            attention_mask: int64 [B, S], 1 for tokens and 0 for padding; None for no padding.
            options: other keywords of transformers' encoders; those that ask for internals are refused.

        Returns:
            The last hidden state, float32 [B, S, D].

        Raises:
            GenerationError: the ids do not fit the model, or attention maps or all hidden states are
                requested.
        """
        _refuse_internals(options)
        mask = None if attention_mask is None else attention_mask.numpy()
        hidden = self.compiled.encode(input_ids.numpy(), mask)
        return BaseModelOutput(last_hidden_state=torch.from_numpy(hidden))


class CompiledModelForSeq2SeqLM(PreTrainedModel, GenerationMixin):
    """A compiled encoder-decoder model with transformers' `generate`; CPU and inference only.

        model = CompiledModelForSeq2SeqLM.from_pretrained("compiled")
        tokens = model.generate(**tokenizer(texts, return_tensors="pt", padding=True), do_sample=True)

    Greedy and beam search return the same tokens as `CompiledModel.generate`. Assisted generation is
    refused: the decoder takes one token at a time and its cache cannot be rolled back.

    Args:
        compiled: the model to run.

    Attributes:
        generation_config: the settings that the model was saved with.
    """

    config_class = PreTrainedConfig
    main_input_name = "input_ids"
    _is_stateful = True  # transformers' flag for a cache that cannot be rolled back

    def __init__(self, compiled: CompiledModel) -> None:
        description = compiled.description
        settings = {**description["generation"], **description["sampling"]}
        settings.pop("max_position_embeddings", None)
        config = PreTrainedConfig(is_encoder_decoder=True, architectures=[description["class"]])
        config.vocab_size = description["vocabulary"]
        config.num_hidden_layers = description["layers"]
        if description["max_positions"] is not None:
            config.max_position_embeddings = description["max_positions"]
        super().__init__(config)
        self.generation_config = GenerationConfig(**settings)
        self.compiled = compiled
        self.encoder = CompiledEncoder(compiled)
        self.eval()

    @classmethod
    def from_pretrained(cls, folder: str | Path, num_threads: int | None = None) -> CompiledModelForSeq2SeqLM:
        """Load a folder that `CompiledModel.save` wrote.

        Raises:
            FormatError: the folder is missing or damaged, or holds no compiled text-generation model.
            TargetError: it was compiled for another machine.
        """
        return cls(CompiledModel.load(folder, num_threads))

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:
        """Write the compiled folder; see `CompiledModel.save`."""
        self.compiled.save(save_directory)

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of logits and hidden states."""
        return torch.float32

    def train(self, mode: bool = True) -> CompiledModelForSeq2SeqLM:
        """Accept eval mode only.

        Raises:
            GenerationError: `mode` is True.
        """
        if mode:
            raise GenerationError(
                "a compiled model cannot be trained: train the prepared model, then freeze and lower it again"
            )
        return super().train(False)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        past_key_values: SessionCache | None = None,
        use_cache: bool | None = None,
        decoder_attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,  # noqa: ARG002 - transformers always passes True
        **options: Any,
    ) -> Seq2SeqLMOutput:
        """Run one decode step.

        Args:
            input_ids: int64 [B, S], padded on the right; not needed with encoder_outputs or past_key_values.
            attention_mask: int64 [B, S], 1 for tokens and 0 for padding.
            decoder_input_ids: int64 [B, q], the tokens that past_key_values has not seen.
            encoder_outputs: what `get_encoder()` returned.
            past_key_values: the cache of the previous step; None starts a new batch.
            use_cache: False leaves the cache out of the result.
            decoder_attention_mask: int64 [B, T], all ones, or None.
            labels: must be None; a compiled model has no loss.
            return_dict: ignored.
            options: other keywords of transformers' models; those that ask for internals are refused.

        Returns:
            Logits of the last decoder position, float32 [B, 1, V], and the cache for the next step.

        Raises:
            GenerationError: an argument does not fit, or asks for what a compiled model does not have: a
                loss, attention maps, hidden states of layers, a mask over decoder tokens.
        """
        _refuse_internals(options)
        if labels is not None:
            raise GenerationError(
                "labels: a compiled model has no loss; use the prepared or frozen model to train or score"
            )
        if decoder_attention_mask is not None and not decoder_attention_mask.all():
            raise GenerationError("decoder_attention_mask has a 0: a compiled decoder attends to every token")
        if decoder_input_ids is None:
            raise GenerationError("decoder_input_ids is missing: expected integers [batch, tokens]")
        if past_key_values is None:
            past_key_values = self._new_cache(input_ids, attention_mask, encoder_outputs)
        elif not isinstance(past_key_values, SessionCache):
            raise GenerationError(
                f"past_key_values is a {type(past_key_values).__name__}: expected the SessionCache that this "
                "model returned, or none"
            )
        logits = past_key_values.step(decoder_input_ids)
        return Seq2SeqLMOutput(
            logits=logits,
            past_key_values=None if use_cache is False else past_key_values,
            encoder_last_hidden_state=None if encoder_outputs is None else encoder_outputs[0],
        )

    def _new_cache(
        self, ids: Tensor | None, mask: Tensor | None, encoder_outputs: BaseModelOutput | None
    ) -> SessionCache:
        if encoder_outputs is None:
            if ids is None:
                raise GenerationError("input_ids is missing: expected integers [batch, length]")
            encoder_outputs = self.encoder(ids, mask)
        hidden = encoder_outputs[0]
        if mask is None:
            mask = torch.ones(hidden.shape[:2], dtype=torch.int64)
        padded = self.compiled.padded_length(mask.shape[1])
        if hidden.shape[1] == padded:  # by the encoder
            mask = torch.nn.functional.pad(mask, (0, padded - mask.shape[1]))
        session = self.compiled.decoder_session(hidden.numpy(), mask.numpy())
        return SessionCache(session, len(hidden), self.compiled.whole_logits)

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        """Keep transformers from making a `DynamicCache`: `forward` makes the cache at the first step."""
        return False


def _refuse_internals(options: dict[str, Any]) -> None:
    for name in ("output_attentions", "output_hidden_states"):
        if options.get(name):
            raise GenerationError(f"{name}: a compiled model does not return them; use the frozen model")
