"""llama.cpp through `llama-cpp-python` (the `bench-llama` extra): the same weights as GGUF, quantized by it.

The name of the engine ends with llama.cpp's name of the quantization. TQ2_0 is its ternary format, where the
embedding and the output projection have 4 and 6 bits.
"""

from __future__ import annotations

import ctypes
import importlib.util
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tbt_compile.bench import bitnet_files, worker_process
from tbt_compile.bench.engines import check_counts
from tbt_compile.bench.gguf_header import adjacent_pairs, close_gguf, opened_gguf
from tbt_compile.bench.job import Job
from tbt_compile.bench.model_shapes import Shape, get_shape, random_model, source_texts

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_PACKAGES = {"llama_cpp": "llama-cpp-python", "gguf": "gguf"}
# Its AMX kernels fail where a compiler drops their tile settings: ggml-org/llama.cpp, pull request 26954.
_BUILD = (
    "Build llama.cpp here, without AMX, in which it has a fault: "
    "CMAKE_ARGS='-DGGML_NATIVE=OFF -DGGML_AVX512=ON -DGGML_AVX512_VNNI=ON' pip install --no-cache-dir "
    "--force-reinstall --no-deps --no-binary llama-cpp-python llama-cpp-python"
)
_TENSORS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def available(job: Job) -> str:
    """The reason that the engine cannot do the job: it cannot run here, or the job is of another kind."""
    family = get_shape(job.shape).family
    if family == "bitnet" and not job.engine.endswith("TQ2_0"):
        return "BitNet shapes are written as TQ2_0 only"
    if family not in ("llama", "bitnet"):
        return "only Llama and BitNet shapes are written as GGUF"
    if job.batch > 1 or job.beams > 1:
        return "it is measured on one text, greedily"
    return cannot_run()


@cache
def cannot_run() -> str:
    """The reason that llama.cpp cannot run here: it is not installed, or a try with a tiny model fails."""
    missing = [package for name, package in _PACKAGES.items() if importlib.util.find_spec(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed; run pip install 'tbt-compile[bench-llama]'"
    with TemporaryDirectory() as folder:
        job = Job("llama.cpp Q8_0", "", "tiny-llama", 1, 8, 2, "host", folder)
        try:
            worker_process.build(job)
            with closing(worker_process.Worker(job)):
                return ""
        except worker_process.WorkerError as error:
            return f"{error}{_BUILD}" if "SIGILL" in str(error) else str(error)


def build(job: Job) -> None:
    """Write the random model as GGUF in 16 bits, and let llama.cpp quantize it."""
    shape = get_shape(job.shape)
    if shape.family == "bitnet":
        bitnet_files.write_gguf(_file(job), shape)
        return
    whole = Path(job.folder) / "f16.gguf"
    write_gguf(whole, shape, random_model(shape))
    quantize(whole, _file(job), job.engine.split()[-1])
    whole.unlink()


def quantize(whole: Path, quantized: Path, kind: str) -> None:
    """Let llama.cpp quantize a GGUF file.

    Args:
        whole: the file in 16 bits.
        quantized: the file to write.
        kind: llama.cpp's name of the quantization, such as "Q4_0".

    Raises:
        RuntimeError: llama.cpp refuses.
    """
    import llama_cpp

    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    if llama_cpp.llama_model_quantize(str(whole).encode(), str(quantized).encode(), ctypes.byref(settings)):
        raise RuntimeError(f"llama.cpp did not quantize {whole} to {kind}")


def load(job: Job) -> LlamaCppRunner:
    """Load the quantized file."""
    return LlamaCppRunner(job)


class LlamaCppRunner:
    """A context of llama.cpp, and its prompt."""

    def __init__(self, job: Job) -> None:
        import llama_cpp

        path = _file(job)
        self.size_bytes = path.stat().st_size
        self.model = llama_cpp.Llama(
            str(path),
            n_ctx=job.source_length + job.new_tokens + 8,
            n_batch=job.source_length,
            n_threads=job.threads,
            n_threads_batch=job.threads,
            verbose=False,
        )
        self.vocabulary = get_shape(job.shape).vocab_size
        self.prompt = source_texts(get_shape(job.shape), job.source_length, 1, False)[0]

    def generate(self, count: int) -> None:
        """Read the prompt, then decode greedily, one token per call."""
        self.model.reset()
        tokens, made = self.prompt, 0
        for _ in range(count):
            self.model.eval(tokens)
            tokens = [int(self._logits().argmax())]
            made += 1
        check_counts([made], 1, count)

    def _logits(self) -> npt.NDArray[np.float32]:
        import llama_cpp
        import numpy as np

        found = llama_cpp.llama_get_logits(self.model.ctx)
        return np.ctypeslib.as_array(found, shape=(self.vocabulary,))


def write_gguf(path: Path, shape: Shape, model: Any) -> None:
    """Write a Llama model as GGUF: matrices in 16 bits, vectors in 32, without a vocabulary.

    Args:
        path: the file.
        shape: of the model.
        model: a `LlamaForCausalLM`.
    """
    import gguf
    import numpy as np

    writer = opened_gguf(path, shape, model.config.rms_norm_eps, model.config.rope_parameters["rope_theta"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue  # llama.cpp projects with the embedding then
        array = tensor.float().numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = shape.heads if "q_proj" in name else shape.key_value_heads
            array = adjacent_pairs(array, heads)
        writer.add_tensor(_tensor_name(name), array.astype(np.float16) if array.ndim > 1 else array)
    close_gguf(writer)


def _tensor_name(name: str) -> str:
    inner = name.removesuffix(".weight")
    if inner.startswith("model.layers."):
        _, _, layer, rest = inner.split(".", 3)
        return f"blk.{layer}.{_TENSORS[rest]}.weight"
    return f"{_TENSORS[inner]}.weight"


def _file(job: Job) -> Path:
    return Path(job.folder) / "quantized.gguf"
