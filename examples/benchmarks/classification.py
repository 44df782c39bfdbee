"""Images and texts to classes: ViT and BERT, beside ONNX Runtime int8 and PyTorch.

    python examples/benchmarks/classification.py --models vit-base,bert-base --json classification.json

Weights are random, so that only times and sizes mean something. ONNX Runtime quantizes its matrices to int8
with one scale per output, and activations as it runs. The engines take turns; figures are medians of a call.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tbt_compile.bench.conditions import conditions

SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12)}
"""Width, layers, heads."""
LABELS, VOCABULARY, IMAGE, TOKENS = 10, 30522, 224, 128
Inputs = dict[str, np.ndarray]
Run = Callable[[], np.ndarray]
"""One call; returns the logits."""


def random_model(name: str) -> Any:
    """A classifier of images ("vit-...") or texts ("bert-...") with random weights."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification, ViTConfig, ViTForImageClassification

    kind, size = name.split("-")
    width, layers, heads = SIZES[size]
    sizes = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "num_labels": LABELS,
    }
    torch.manual_seed(0)
    if kind == "vit":
        return ViTForImageClassification(ViTConfig(**sizes, image_size=IMAGE)).eval()
    return BertForSequenceClassification(BertConfig(**sizes, vocab_size=VOCABULARY)).eval()


def inputs_of(name: str, rows: int) -> Inputs:
    """Random pixels, or random ids with a mask of ones."""
    random = np.random.default_rng(0)
    if name.startswith("vit"):
        return {"pixel_values": random.standard_normal((rows, 3, IMAGE, IMAGE), dtype=np.float32)}
    ids = random.integers(1000, VOCABULARY, (rows, TOKENS))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def compiled(name: str, recipe: str, inputs: Inputs, folder: Path, threads: int) -> tuple[Run, int]:
    """A compiled model, and its bytes on disk."""
    import torch

    import tbt_compile

    examples = {key: torch.from_numpy(value).repeat_interleave(2, 0) for key, value in inputs.items()}
    model = tbt_compile.prepare(random_model(name), recipe, examples)
    with torch.no_grad():
        model.train()(**examples)
    tbt_compile.lower(model.eval()).save(folder)
    loaded = tbt_compile.load(folder, num_threads=threads)
    return lambda: loaded(**inputs)["logits"], _bytes(folder)


def onnx_runtime(name: str, inputs: Inputs, folder: Path, threads: int) -> tuple[Run, int]:
    """ONNX Runtime with dynamic int8, and its bytes on disk."""
    import onnx
    import onnxruntime
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = random_model(name)
            self.model.set_attn_implementation("eager")

        def forward(self, *tensors: Any) -> Any:
            return self.model(**dict(zip(inputs, tensors, strict=True))).logits

    folder.mkdir()
    exported = folder / "float.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Logits().eval(),
            tuple(map(torch.from_numpy, inputs.values())),
            str(exported),
            dynamo=True,
            opset_version=18,
            input_names=list(inputs),
            verbose=False,
        )
    model = onnx.load(exported)
    del model.graph.value_info[:]  # the exporter's shapes of transposed weights do not pass ONNX's check
    onnx.save(model, exported)
    quantize_dynamic(exported, folder / "int8.onnx", weight_type=QuantType.QInt8, per_channel=True)
    for file in folder.glob("float.onnx*"):
        file.unlink()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(folder / "int8.onnx", options, ["CPUExecutionProvider"])
    return lambda: session.run(None, inputs)[0], _bytes(folder)


def torch_float(name: str, inputs: Inputs, threads: int) -> tuple[Run, int]:
    """PyTorch in float32, and the bytes of its weights."""
    import torch

    torch.set_num_threads(threads)
    model = random_model(name)
    tensors = {key: torch.from_numpy(value) for key, value in inputs.items()}

    def run() -> np.ndarray:
        with torch.inference_mode():
            return model(**tensors).logits.numpy()

    return run, sum(parameter.nbytes for parameter in model.parameters())


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def measured(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure every engine on one model.

    Args:
        name: of the model.
        options: of the command line.

    Returns:
        A row per engine.
    """
    inputs = inputs_of(name, options.rows)
    with tempfile.TemporaryDirectory() as scratch:
        engines = {
            "torch fp32": torch_float(name, inputs, options.threads),
            "ONNX Runtime int8": onnx_runtime(name, inputs, Path(scratch) / "onnx", options.threads),
        }
        for recipe in options.recipes.split(","):
            engines[recipe] = compiled(name, recipe, inputs, Path(scratch) / recipe, options.threads)
        times: dict[str, list[float]] = {}
        for _ in range(options.rounds + 1):  # the first round warms up
            for engine, (run, _) in engines.items():
                start = time.perf_counter()
                assert run().shape == (options.rows, LABELS)
                times.setdefault(engine, []).append(time.perf_counter() - start)
    return [
        {"model": name, "engine": engine, "ms": 1e3 * median(times[engine][1:]) / options.rows, "bytes": size}
        for engine, (_, size) in engines.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", default="vit-base,bert-base", help="comma-separated, of vit and bert")
    parser.add_argument("--recipes", default="2-2-8,1-1-8,2-2-2,1-1-1", help="comma-separated")
    parser.add_argument("--rows", type=int, default=1, help="images or texts of a call")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9, help="turns of every engine")
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    rows = []
    for name in options.models.split(","):
        for row in measured(name, options):
            rows.append(row)
            size = row["bytes"] / 2**20
            print(f"{name:10} {row['engine']:18} {row['ms']:8.2f} ms a row   {size:7.1f} MiB", flush=True)
    if options.json:
        report = {"conditions": conditions(), "options": vars(options), "rows": rows}
        Path(options.json).write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
