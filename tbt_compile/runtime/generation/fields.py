"""What becomes of every field of transformers' `GenerationConfig`.

A field is kept with its meaning (`CHECKS`), or has no effect on the tokens, at any value (`WITHOUT_EFFECT`),
at certain ones (`INERT_AT`) or without sampling (`OTHER_SAMPLING`). Everything else is refused by name: to
ignore it could change the output without a word.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tbt_compile.errors import GenerationError, did_you_mean
from tbt_compile.runtime.generation import validation

CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "num_beams": validation.count,
    "num_return_sequences": validation.count,
    "max_new_tokens": validation.count,
    "max_length": validation.count,
    "min_new_tokens": validation.integer,
    "min_length": validation.integer,
    "length_penalty": validation.number,
    "early_stopping": validation.early_stopping,
    "no_repeat_ngram_size": validation.integer,
    "encoder_no_repeat_ngram_size": validation.integer,
    "repetition_penalty": validation.positive_number,
    "encoder_repetition_penalty": validation.positive_number,
    "bad_words_ids": validation.token_sequences,
    "sequence_bias": validation.sequence_bias,
    "forced_bos_token_id": validation.integer,
    "forced_eos_token_id": validation.token_ids,
    "suppress_tokens": validation.token_ids,
    "begin_suppress_tokens": validation.token_ids,
    "exponential_decay_length_penalty": validation.start_and_factor,
    "remove_invalid_values": validation.flag,
    "renormalize_logits": validation.flag,
    "decoder_start_token_id": validation.id_or_ids,
    "bos_token_id": validation.integer,
    "eos_token_id": validation.token_ids,
    "pad_token_id": validation.integer,
    "max_position_embeddings": validation.count,
    "do_sample": validation.flag,
    "temperature": validation.positive_number,
    "top_k": validation.integer,
    "top_p": validation.share,
    "min_p": validation.share,
    "seed": validation.integer,
}
"""The settings of a search, with the check of each value."""

SAMPLING = ("temperature", "top_k", "top_p", "min_p", "seed")
"""Settings that only sampling reads."""

OTHER_SAMPLING: dict[str, tuple[float, ...]] = {
    "top_h": (),
    "typical_p": (1,),
    "epsilon_cutoff": (0, 1),
    "eta_cutoff": (0, 1),
}
"""Fields that only sampling reads and that are not implemented here, with the values that ask for nothing."""

INERT_AT: dict[str, tuple[Any, ...]] = {
    "num_beam_groups": (1,),
    "diversity_penalty": (0,),
    "penalty_alpha": (0,),
    "guidance_scale": (1,),
    "token_healing": (False,),
    "low_memory": (False,),
    "use_mtp": (False,),
    "return_dict_in_generate": (False,),
    # A quantized cache changes the keys and values, and "paged" selects another generation loop.
    "cache_implementation": (
        "dynamic",
        "offloaded",
        "static",
        "offloaded_static",
        "sliding_window",
        "hybrid",
        "hybrid_chunked",
        "offloaded_hybrid",
        "offloaded_hybrid_chunked",
    ),
    "constraints": (),
    "force_words_ids": (),
    "dola_layers": (),
    "watermarking_config": (),
    "stop_strings": (),
    "max_time": (),
    "prompt_lookup_num_tokens": (),
    "assistant_early_exit": (),
    "prefill_chunk_size": (),  # with an encoder, transformers writes other tokens
}
"""Fields that ask for something not implemented here, with the values that ask for nothing."""

WITHOUT_EFFECT = frozenset(
    {
        # How a step is computed, not what.
        "use_cache",
        "cache_config",
        "max_cache_len",
        "compile_config",
        "disable_compile",
        "continuous_batching_config",
        # Returned only with return_dict_in_generate.
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "output_logits",
        # Read only in assisted generation, which other fields and arguments switch on.
        "is_assistant",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
        "assistant_confidence_threshold",
        "max_matching_ngram_size",
        "assistant_lookbehind",
        "target_lookbehind",
        "assistant_ensemble_weight",
        "speculation_type",
        "transformers_version",
    }
)
"""Fields that no value of which changes the tokens."""


def refuse_unless_inert(name: str, value: Any) -> None:
    """Return if a field that is not among `CHECKS` asks for nothing.

    Raises:
        GenerationError: it asks for something that is not implemented here, or is unknown.
    """
    if name in WITHOUT_EFFECT:
        return
    if name in INERT_AT:
        if validation.plain(value) in INERT_AT[name]:
            return
        raise GenerationError(
            f"{name}={value!r}: only greedy search, plain beam search and sampling are available here; leave "
            f"{name} out"
        )
    if name in OTHER_SAMPLING:
        if validation.plain(value) in OTHER_SAMPLING[name]:
            return
        raise GenerationError(
            f"{name}={value!r}: sampling knows {', '.join(SAMPLING)}; set {name} to None to sample without it"
        )
    raise GenerationError(
        f"unknown generation setting {name!r}: expected one of {', '.join(sorted(CHECKS))}."
        + did_you_mean(name, CHECKS)
    )
