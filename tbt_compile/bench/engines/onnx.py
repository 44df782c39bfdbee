"""ONNX Runtime int8: `torch.onnx.export`, then its dynamic quantization (the `bench` extra).

There are three graphs. "encoder" returns the cross-attention keys and values of every decoder layer. "step"
decodes one token with the caches; those of the first token are empty, which avoids a second copy of the
decoder's weights. "reorder" gathers cache rows for beam search. Caches stay in ONNX Runtime's memory between
steps. The search is this package's, as lean as the loop of the PyTorch engine.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tbt_compile.bench.engines import check_counts
from tbt_compile.bench.job import Job
from tbt_compile.bench.model_shapes import get_shape, padded, random_model, source_texts

if TYPE_CHECKING:
    from tbt_compile.runtime.generation import Scores, Tokens

_PACKAGES = ("onnxruntime", "onnx", "onnxscript")
_OPSET = 18
# Example sizes for the export, all different: equal ones could be unified into one dynamic dimension.
_BATCH, _SOURCE, _PAST = 2, 9, 3


def available(_job: Job) -> str:
    """The reason that the engine cannot run: optional dependencies are missing."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return ""
    return f"{', '.join(missing)} not installed; run pip install 'tbt-compile[bench]'"


def build(job: Job) -> None:
    """Export the graphs and quantize the weights of the first two to int8, with one scale per output."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from torch import nn

    from tbt_compile.adapters.seq2seq_units import Step

    class Encoder(nn.Module):
        """(input_ids [B, S], attention_mask [B, S]) -> keys and values [B, H, S, D] of each decoder layer."""

        def __init__(self, model: Any) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any) -> list[Any]:
            encoder = self.model.get_encoder()
            hidden = encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            made = []
            for layer in self.model.get_decoder().layers:
                attention = layer.encoder_attn
                for project in (attention.k_proj, attention.v_proj):
                    heads = project(hidden).unflatten(2, (attention.num_heads, attention.head_dim))
                    made.append(heads.transpose(1, 2))
            return made

    class Reorder(nn.Module):
        """(rows [R], caches [B, H, T, D]) -> caches [R, H, T, D]."""

        def forward(self, rows: Any, caches: list[Any]) -> list[Any]:
            return [cache.index_select(0, rows) for cache in caches]

    model = random_model(get_shape(job.shape))
    model.set_attn_implementation("eager")
    # With tied weights only one user would be quantized, and every step would dequantize the whole table.
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    ids = torch.randint(4, model.config.vocab_size, (_BATCH, _SOURCE))
    mask = torch.ones_like(ids)
    heads = model.config.decoder_attention_heads
    layers = model.config.decoder_layers
    past = [torch.zeros(_BATCH, heads, _PAST, model.config.d_model // heads) for _ in range(2 * layers)]
    with torch.no_grad():
        cross = [tensor.contiguous() for tensor in Encoder(model)(ids, mask)]
    pair, token = {0: "batch", 1: "source"}, ids[:, :1].contiguous()
    names = _Names(layers)
    units = {
        "encoder": (Encoder(model), (ids, mask), (pair, pair), ["ids", "mask"], names.cross),
        "step": (
            Step(model),
            (token, mask, past + cross),
            (
                {0: "batch"},
                pair,
                [{0: "batch", 2: "past"}] * len(past) + [{0: "batch", 2: "source"}] * len(cross),
            ),
            ["token", "mask", *names.past, *names.cross],
            ["logits", *names.grown],
        ),
        "reorder": (
            Reorder(),
            (torch.tensor([1, 0, 0]), past),
            ({0: "rows"}, [{0: "batch", 2: "past"}] * len(past)),
            ["rows", *names.past],
            names.grown,
        ),
    }
    folder = Path(job.folder)
    for name, (unit, inputs, dimensions, taken, made) in units.items():
        exported = folder / f"{name}.onnx" if name == "reorder" else folder / f"{name}-float.onnx"
        with warnings.catch_warnings():
            # Dimensions that share a name, and PyTorch's use of its own deprecated functions.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                unit.eval(),
                inputs,
                str(exported),
                dynamo=True,
                opset_version=_OPSET,
                dynamic_shapes=dimensions,
                input_names=taken,
                output_names=made,
                verbose=False,
            )
        if name != "reorder":
            quantize_dynamic(exported, folder / f"{name}.onnx", weight_type=QuantType.QInt8, per_channel=True)
            exported.unlink()
            exported.with_name(f"{exported.name}.data").unlink(missing_ok=True)


def load(job: Job) -> OnnxRunner:
    """Load the quantized graphs."""
    return OnnxRunner(job)


class _Names:
    """Tensor names of the caches: the keys and values of each layer in turn."""

    def __init__(self, layers: int) -> None:
        self.past, self.grown, self.cross = (
            [f"{kind}.{number}" for number in range(2 * layers)] for kind in ("past", "grown", "cross")
        )


class OnnxRunner:
    """The three sessions, with greedy or beam search over a fixed number of tokens."""

    def __init__(self, job: Job) -> None:
        import numpy as np
        import onnxruntime

        shape = get_shape(job.shape)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = job.threads
        options.inter_op_num_threads = 1
        files = {name: Path(job.folder) / f"{name}.onnx" for name in ("encoder", "step", "reorder")}
        self.size_bytes = sum(file.stat().st_size for file in files.values())
        self.sessions = {
            name: onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
            for name, file in files.items()
        }
        self.names = _Names(shape.layers)
        self.heads, self.head_width = shape.heads, shape.width // shape.heads
        self.tokens = shape.config_fields()
        texts = source_texts(shape, job.source_length, job.batch, job.mixed)
        self.ids, self.mask = (np.array(rows, dtype=np.int64) for rows in padded(texts))
        self.beams = job.beams

    def generate(self, count: int) -> None:
        """Encode, then decode step by step."""
        from tbt_compile.runtime.generation import GenerationSettings, generate

        fields = {name: self.tokens[f"{name}_token_id"] for name in ("decoder_start", "eos", "pad")}
        settings = GenerationSettings(**{f"{name}_token_id": value for name, value in fields.items()})
        settings = settings.replace(num_beams=self.beams, min_new_tokens=count, max_new_tokens=count)
        made = generate(OnnxSession(self), settings, len(self.ids))
        check_counts([len(row) - 1 for row in made], len(self.ids), count)


class OnnxSession:
    """A `DecoderSession` on the graphs of a runner."""

    def __init__(self, runner: OnnxRunner) -> None:
        import numpy as np

        self.runner, self.names = runner, runner.names
        self.rows = np.arange(len(runner.ids))
        self.mask = _value(runner.mask)
        self.cross = self._run("encoder", self.names.cross, {"ids": _value(runner.ids), "mask": self.mask})
        empty = np.zeros((len(runner.ids), runner.heads, 0, runner.head_width), np.float32)
        self.past = [_value(empty)] * len(self.names.past)

    def step(self, tokens: Tokens) -> Scores:
        """Append one token, int64 [rows, 1], to every row; returns logits, float32 [rows, vocabulary]."""
        inputs = {"token": _value(tokens), "mask": self.mask}
        inputs |= dict(zip(self.names.past, self.past, strict=True))
        inputs |= dict(zip(self.names.cross, self.cross, strict=True))
        logits, *self.past = self._run("step", ["logits", *self.names.grown], inputs)
        scores: Scores = logits.numpy()[:, 0]
        return scores

    def reorder(self, rows: Tokens) -> None:
        """Reorder the caches; those of the source only if a row moves to another source."""
        self.past = self._pick(rows, self.past)
        if list(self.rows[rows]) != list(self.rows):
            self.cross = self._pick(rows, self.cross)
            self.rows = self.rows[rows]
            self.mask = _value(self.runner.mask[self.rows])

    def _pick(self, rows: Tokens, caches: Sequence[Any]) -> list[Any]:
        inputs = {"rows": _value(rows), **dict(zip(self.names.past, caches, strict=True))}
        return self._run("reorder", self.names.grown, inputs)

    def _run(self, name: str, outputs: list[str], inputs: dict[str, Any]) -> list[Any]:
        found: list[Any] = self.runner.sessions[name].run_with_ort_values(outputs, inputs)
        return found


def _value(array: Any) -> Any:
    """An ONNX Runtime tensor that shares the memory of an array."""
    import numpy as np
    import onnxruntime

    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
