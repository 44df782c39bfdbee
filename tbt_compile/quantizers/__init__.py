"""The paper's quantizers, as autograd functions and as modules.

Every quantizer returns a `QuantTensor`: integer codes held in floating point, and their scale. Products are
taken on the codes, where float32 arithmetic is exact, and scaled afterwards, so that eager and compiled
models agree bit for bit on the integer part whatever the order of summation.
"""

from tbt_compile.quantizers.activations import ActivationQuantizer
from tbt_compile.quantizers.ops import QuantTensor, quantized_embedding, quantized_linear, quantized_matmul
from tbt_compile.quantizers.weights import WeightQuantizer

__all__ = [
    "ActivationQuantizer",
    "QuantTensor",
    "WeightQuantizer",
    "quantized_embedding",
    "quantized_linear",
    "quantized_matmul",
]
