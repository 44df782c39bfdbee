"""One small model of every architecture of transformers that generates text, made from its config class.

A config is shrunk by the names of its fields, at any depth: widths, layers, heads, windows. Weights are
random and all of them matter: biases are not zero and norms do not scale by one, as after `__init__`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCABULARY, WIDTH, LAYERS, HEADS, WINDOW, POSITIONS = 96, 32, 2, 4, 8, 64
PAD, BOS, EOS = 0, 1, 2
KINDS = {
    "causal": ["MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"],
    "seq2seq": ["MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"],
    "speech": ["MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES"],
    "vision": ["MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"],
}
"""Kind of an architecture -> the mappings of transformers that list it."""

# Field of a config -> its small value. Only fields that a config has, and that are numbers there, are set.
SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "decoder_vocab_size", "src_vocab_size", "tgt_vocab_size"), VOCABULARY),
    **dict.fromkeys(("vocab_size_per_layer_input", "text_vocab_size", "audio_vocab_size"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "d_embed", "model_dim", "embed_dim"), WIDTH),
    **dict.fromkeys(("hidden_size_global", "encoder_hidden_size", "audio_embed_dim"), WIDTH),
    **dict.fromkeys(("embedding_size", "word_embed_proj_dim", "input_embedding_size", "emb_dim"), WIDTH),
    **dict.fromkeys(("output_embedding_size", "hidden_size_per_layer_input", "lru_width"), WIDTH),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "n_inner", "encoder_ffn_dim"), 2 * WIDTH),
    **dict.fromkeys(("decoder_ffn_dim", "ffn_hidden_size", "d_inner", "dim_ff", "dff"), 2 * WIDTH),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), WIDTH),
    **dict.fromkeys(("feed_forward_size", "shared_intermediate_size", "intermediate_size_mlp"), 2 * WIDTH),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers"), LAYERS),
    **dict.fromkeys(("decoder_layers", "num_decoder_layers", "num_encoder_layers", "depth"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "nhead"), HEADS),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), HEADS),
    **dict.fromkeys(("num_encoder_attention_heads", "num_decoder_attention_heads"), HEADS),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads", "n_head_kv", "kv_n_heads"), HEADS // 2),
    **dict.fromkeys(("head_dim", "d_kv", "d_head", "attention_head_dim", "global_head_dim"), WIDTH // HEADS),
    **dict.fromkeys(("rotary_dim", "qk_rope_head_dim"), WIDTH // HEADS // 2),
    **dict.fromkeys(("qk_nope_head_dim", "v_head_dim", "kv_lora_rank", "q_lora_rank"), WIDTH // HEADS),
    **dict.fromkeys(("index_head_dim", "index_n_heads"), 8),
    **dict.fromkeys(("sliding_window", "attention_window", "window_size", "attention_chunk_size"), WINDOW),
    **dict.fromkeys(("local_attention", "attention_window_size", "block_size"), WINDOW),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), POSITIONS),
    **dict.fromkeys(("seq_length", "max_target_positions", "max_sequence_length"), POSITIONS),
    **dict.fromkeys(("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "num_experts_per_token", "moe_topk"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "moe_num_shared_experts"), 1),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "n_mamba_heads"), HEADS),
    **dict.fromkeys(("mamba_d_state", "state_size", "ssm_state_size", "mamba_d_head"), 8),
    **dict.fromkeys(("mamba_head_dim", "linear_key_head_dim", "linear_value_head_dim"), WIDTH // HEADS),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), HEADS // 2),
    **dict.fromkeys(("time_step_rank", "mamba_n_groups", "n_groups", "first_k_dense_replace"), 1),
    **dict.fromkeys(("num_mel_bins", "input_feat_per_channel", "num_mel_channels"), 16),
    **dict.fromkeys(("max_source_positions",), 20),
    **dict.fromkeys(("conv_channels", "audio_hidden_size"), WIDTH),
    **dict.fromkeys(("image_size",), 16),
    **dict.fromkeys(("patch_size",), 8),
    **dict.fromkeys(("activation_dropout", "dropout", "attention_dropout", "layerdrop"), 0.0),
    **dict.fromkeys(("encoder_layerdrop", "decoder_layerdrop", "hidden_dropout", "classifier_dropout"), 0.0),
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
POSITION_FIELDS = ("max_position_embeddings",)
FIELDS: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 8},
    "blt": {"encoder_hash_byte_group_vocab": 100},
    "bert-generation": {"hidden_act": "gelu"},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": {"rope_theta": 1e4, "rope_type": "default"}}
    },
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1},
    "dots3_note_text": {"per_layer_config": {}, "kv_lora_rank": 8, "qk_nope_head_dim": 8},
    "falcon_h1": {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_ssm": 64},
    "gemma3n_text": {
        "intermediate_size": [64, 64],
        "activation_sparsity_pattern": [0.0, 0.0],
        "laurel_rank": 4,
        "num_kv_shared_layers": 0,
    },
    "gemma4_text": {"head_dim": 8, "per_layer_config": {"01": {"head_dim": 16}}},
    "gemma4_unified_text": {"head_dim": 8, "per_layer_config": {"01": {"head_dim": 16}}},
    "gemma4_assistant": {"hidden_size_per_layer_input": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granitemoehybrid": {"mamba_n_heads": 8, "mamba_d_head": 8},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "ministral": {"head_dim": 8},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 8},
    "reformer": {"axial_pos_embds": False},
    "whisper": {"begin_suppress_tokens": [5, EOS], "suppress_tokens": [6, 7]},
    "nllb-moe": {"encoder_sparse_step": 1, "decoder_sparse_step": 1},
    "switch_transformers": {"num_sparse_encoder_layers": 2, "num_sparse_decoder_layers": 2},
    "xmod": {"default_language": "en_XX"},
    "youtu": {"head_dim": WIDTH // HEADS // 2},
    "kyutai_speech_to_text": {"num_codebooks": 2, "codebook_vocab_size": 32, "audio_pad_token_id": 70},
    "moonshine_streaming_encoder": {"sliding_windows": [[8, 4], [8, 0]]},
    "moonshine_streaming": {"num_key_value_heads": HEADS},
    "fun_asr_nano_adaptor": {"intermediate_size": WIDTH // 4},
    "zaya": {"num_experts_per_tok": 1},
}
"""Fields that a model type needs besides."""


FEATURES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("canary", "cohere_asr"), (64, 16)),
    **dict.fromkeys(("seamless_m4t", "seamless_m4t_v2"), (24, 160)),
    **dict.fromkeys(("moonshine", "moonshine_streaming"), (4000,)),
    **dict.fromkeys(("speech-encoder-decoder", "speecht5"), (4000,)),
    "speech_to_text": (64, 16),
}
"""Shape of one row of the features of a model type whose config does not tell it."""


def architectures(kind: str) -> dict[str, str]:
    """Model type -> name of the class, of all architectures of one kind."""
    found: dict[str, str] = {}
    for mapping in KINDS[kind]:
        for model_type, names in getattr(modeling_auto, mapping).items():
            found[model_type] = names if isinstance(names, str) else names[0]
    return found


def tiny_model(kind: str, model_type: str) -> PreTrainedModel:
    """Make a small model with random weights, in evaluation mode, as `from_config` of the auto class would.

    Args:
        kind: of the architecture.
        model_type: as in its config.

    Returns:
        The model.
    """
    torch.manual_seed(0)
    model_class = getattr(transformers, architectures(kind)[model_type])
    whole = CONFIG_MAPPING[model_type]
    own = model_class.config_class
    if model_type in PAIRS:
        config = _pair(whole, *PAIRS[model_type])
    else:
        config = tiny_config(own if own in whole.sub_configs.values() else whole)
    model = model_class(config)
    randomize(model)
    return model.eval()


PAIRS = {
    "encoder-decoder": ("bert", "bert"),
    "vision-encoder-decoder": ("vit", "trocr"),
    "speech-encoder-decoder": ("wav2vec2", "bert"),
}
"""Model types made of any encoder and any decoder, and those that stand for them here."""


def _pair(whole: Any, encoder: str, decoder: str) -> PreTrainedConfig:
    parts = [tiny_config(CONFIG_MAPPING[part]) for part in (encoder, decoder)]
    parts[0].is_decoder, parts[1].is_decoder, parts[1].add_cross_attention = False, True, True
    config = whole.from_encoder_decoder_configs(*parts)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = BOS, PAD, EOS
    return config


def tiny_config(kind: type[PreTrainedConfig]) -> PreTrainedConfig:
    """Make a config with every size small, those of its parts included."""
    usual = kind()
    small = dict(_small_sizes(usual))
    small |= _layer_lists(usual)
    for name, part in usual.sub_configs.items():
        own = type(getattr(usual, name, None))
        part_kind = own if issubclass(own, PreTrainedConfig) else part
        if part_kind is not AutoConfig:
            small[name] = tiny_config(part_kind)
    return kind(**{**small, **FIELDS.get(kind.model_type, {})})


def _small_sizes(usual: PreTrainedConfig) -> Iterator[tuple[str, Any]]:
    for name, value in SIZES.items():
        if not _settable(type(usual), name):
            continue
        try:
            now = getattr(usual, name)
        except Exception as error:  # a class of its own for sizes that differ from layer to layer
            if "per-layer" not in str(error):
                continue
            now = value
        if isinstance(now, list | tuple) and not name.endswith("token_id"):
            yield name, type(now)([value] * len(now))
        elif now is not None or name.endswith("token_id"):
            yield name, value
    if hasattr(usual, "kv_lora_rank"):  # latent attention has as many heads of keys as of queries
        yield "num_key_value_heads", HEADS
    if hasattr(usual, "is_decoder") and not usual.is_encoder_decoder:
        yield "is_decoder", True
    if usual.is_encoder_decoder:
        yield "decoder_start_token_id", BOS


def _settable(kind: type[PreTrainedConfig], name: str) -> bool:
    """Whether the class has a field of this name, or calls one so."""
    if name == "num_hidden_layers" and kind.model_type in ("prophetnet",):
        return False
    if name in POSITION_FIELDS and kind.model_type in ("xlnet",):
        return False
    static = inspect.getattr_static(kind, kind.attribute_map.get(name, name), None)
    return not (isinstance(static, property) and static.fset is None)


def _layer_lists(usual: PreTrainedConfig) -> dict[str, Any]:
    """Lists with a word per layer, shortened to one layer of each word, and the number of layers."""
    found = {}
    for name in ("layer_types", "mlp_layer_types"):
        words = getattr(usual, name, None) if _settable(type(usual), name) else None
        if isinstance(words, list) and words and all(isinstance(word, str) for word in words):
            found[name] = list(dict.fromkeys(words))
    if not found:
        return {}
    layers = max(LAYERS, *map(len, found.values()))
    return {
        "num_hidden_layers": layers,
        **{name: words + words[-1:] * (layers - len(words)) for name, words in found.items()},
    }


def randomize(model: nn.Module) -> None:
    """Draw every parameter: wide matrices, so that outputs differ, norms about one, biases about zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(drawn * 1.5 / parameter[0].numel() ** 0.5)
            elif "norm" in name.lower() and name.endswith("weight"):
                parameter.copy_(parameter + 0.1 * drawn)
            else:
                parameter.copy_(0.1 * drawn)
    model.tie_weights() if isinstance(model, PreTrainedModel) else None


_SELECTIVE = ("mamba", "rwkv", "recurrent", "linearattention", "gateddelta", "lightning", "xlstm", "mlstm")
_SELECTIVE += ("bamba", "falconh1", "shortconv", "deltanet", "kimidelta", "rglru")


FAMILIES = {
    **dict.fromkeys(("dbrx", "dots3_note", "dots3_note_text"), "mixture of experts"),
    **dict.fromkeys(("nemo_speechlm", "qwen4_exp", "qwen4_exp_text", "zamba"), "state space"),
}
"""What model types are of which no small model is made."""


def family(model: nn.Module) -> str:
    """Whether a model is one of the kinds that may be refused: "mixture of experts", "state space", or ""."""
    names = {type(module).__name__.lower() for module in model.modules()}
    if any("expert" in name or "moe" in name or "router" in name for name in names):
        return "mixture of experts"
    return "state space" if any(word in name for name in names for word in _SELECTIVE) else ""
