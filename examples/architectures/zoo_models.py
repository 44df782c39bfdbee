"""One small model of every architecture of transformers that generates text, made from its config class.

A config is shrunk by the names of its fields, at any depth: widths, layers, heads, windows; lists with an
entry per layer become as short, and what is zero, which says that a part is absent, stays so. Weights are
random and all of them matter: biases are not zero and norms do not scale by one, as after `__init__`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from zoo_sizes import (
    ALWAYS,
    BOS,
    EOS,
    FIELDS,
    HEADS,
    LAYER_WORDS,
    LAYERS,
    PAD,
    POSITION_FIELDS,
    SIZES,
    WIDTH,
)

KINDS = {
    "causal": ["MODEL_FOR_CAUSAL_LM_MAPPING_NAMES"],
    "seq2seq": ["MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"],
    "speech": ["MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES"],
    "vision": ["MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"],
}
"""Kind of an architecture -> the mappings of transformers that list it."""


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
            name = names if isinstance(names, str) else names[0]
            if getattr(transformers, name).can_generate():  # pi0 moves a robot
                found[model_type] = name
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


def tiny_config(
    kind: type[PreTrainedConfig],
    usual: PreTrainedConfig | None = None,
    defaults: Mapping[str, Any] = MappingProxyType({}),
    fixed: Mapping[str, Any] = MappingProxyType({}),
) -> PreTrainedConfig:
    """Make a config with every size small, those of its parts included.

    Args:
        kind: its class.
        usual: one with the usual sizes; the default is what the class makes.
        defaults: its fields that differ from those of the class.
        fixed: its fields whatever their size.

    Returns:
        The small config.
    """
    fields = {**FIELDS.get(kind.model_type, {}), **fixed}
    parts = {name: fields.pop(name) for name in kind.sub_configs if name in fields}
    usual = kind() if usual is None else usual
    small = dict(_small_sizes(usual))
    small |= _sections(usual) | _layer_lists(usual, small)
    for name, part in usual.sub_configs.items():
        now = getattr(usual, name, None)
        known = now if isinstance(now, PreTrainedConfig) else None
        part_kind = part if known is None else type(known)
        if part_kind is not AutoConfig:
            spec = kind.sub_configs_defaults.get(name)
            own = {} if spec is None else spec.init_kwargs
            small[name] = tiny_config(part_kind, known, own, parts.get(name, {}))
    return kind(**{**defaults, **small, **fields})


_ABSENT = object()


def _usual_value(usual: PreTrainedConfig, name: str, varies: Any) -> Any:
    """A field of a config: `varies` if it differs from layer to layer, `_ABSENT` if there is none."""
    try:
        return getattr(usual, name, _ABSENT)
    except Exception as error:
        if "per-layer" not in str(error):
            return _ABSENT
        return varies


def _small_sizes(usual: PreTrainedConfig) -> Iterator[tuple[str, Any]]:
    for name, value in SIZES.items():
        now = _usual_value(usual, name, value)
        if now is _ABSENT or not _settable(type(usual), name):
            continue
        if name in ALWAYS:
            yield name, value
        elif isinstance(now, list | tuple):
            yield name, type(now)([value] * len(now))
        elif now:
            yield name, value
    if _usual_value(usual, "kv_lora_rank", 1) is not _ABSENT:
        yield "num_key_value_heads", HEADS  # latent attention has as many heads of keys as of queries
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


def _sections(usual: PreTrainedConfig) -> dict[str, Any]:
    """Rotary embeddings of several axes, which share the frequencies of a small head."""
    rope = dict(getattr(usual, "rope_parameters", None) or {})
    if "mrope_section" not in {*rope, *getattr(usual, "ignore_keys_at_rope_validation", ())}:
        return {}
    axes = len(rope.get("mrope_section", (1, 1, 1)))
    frequencies = int(WIDTH // HEADS * rope.get("partial_rotary_factor", 1)) // 2
    others = [frequencies // axes] * (axes - 1)
    return {"rope_parameters": {**rope, "mrope_section": [frequencies - sum(others), *others]}}


def _layer_lists(usual: PreTrainedConfig, small: dict[str, Any]) -> dict[str, Any]:
    """Lists with an entry per layer, and how many they have: words one of each, numbers the first ones."""
    own = usual.default_config_fields()  # others are made of those
    usual_layers = _usual_value(usual, "num_hidden_layers", None)
    named = {name: _usual_value(usual, name, None) for name in LAYER_WORDS}
    lists = {
        name: list(value)
        for name, value in {**vars(usual), **named, **small}.items()
        if isinstance(value, list | tuple)
        and value
        and (name in LAYER_WORDS or (len(value) == usual_layers and isinstance(own.get(name), list | tuple)))
        and _settable(type(usual), name)
    }
    words = {name: list(dict.fromkeys(value)) for name, value in lists.items() if _are_words(value)}
    if not lists:
        return {}
    layers = max([LAYERS, *map(len, words.values())])
    cut = {name: value[:layers] for name, value in lists.items()}
    for name, value in words.items():
        cut[name] = value + value[-1:] * (layers - len(value))
    return {"num_hidden_layers": layers, **cut}


def _are_words(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


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


def family(model: nn.Module) -> str:
    """Whether a model is one of the kinds that may be refused: "mixture of experts", "state space", or ""."""
    names = {type(module).__name__.lower() for module in model.modules()}
    if any("expert" in name or "moe" in name or "router" in name for name in names):
        return "mixture of experts"
    return "state space" if any(word in name for name in names for word in _SELECTIVE) else ""
