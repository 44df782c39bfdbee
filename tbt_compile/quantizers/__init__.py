"""The paper's quantizers, as autograd functions and as modules.

Every quantizer returns a `QuantTensor`: integer codes stored as floats, and their scale. Products run on the
codes, where float32 arithmetic is exact, and are scaled afterwards. The integer part is then bit for bit the
same in eager and compiled models, in any order of summation.
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
