"""Mutants that compute the same as the original, by file: the change, and why no test can tell them apart."""

from __future__ import annotations

IDENTITY = "members of an Enum are equal only to themselves"
MEMORY = "how many elements are scaled at a time, which changes memory and not values"
FLOAT64 = "sums that float32 holds exactly are the same in float64"
STATIC = "autograd reads forward and backward from the class, where a function is as good"

EQUIVALENT: dict[str, dict[str, str]] = {
    "codegen/kernels/dot/bit_product.py": {
        "return BitProduct(x, w, (PopcountTerm(-2, lambda a, b: a[0] ^ b[0]),), per_element=1) -> "
        "return BitProduct(x, w, (PopcountTerm(-2, lambda a, b: a[0] ^ b[ -1]),), per_element=1)": (
            "binary codes have one plane, the first and the last"
        ),
    },
    "codegen/layouts.py": {
        "if encoding.planes == 2: -> if encoding.planes >= 2:": "no encoding has more than two planes",
    },
    "tbt_compile/quantizers/activations.py": {
        "@staticmethod -> (removed)": STATIC,
    },
    "tbt_compile/quantizers/choose.py": {
        "if split and encoding is Encoding.BINARY: -> if split and encoding == Encoding.BINARY:": IDENTITY,
    },
    "tbt_compile/quantizers/first_batch.py": {
        "several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1 -> several = "
        "dist.is_available() and dist.is_initialized() and dist.get_world_size() != 1": "no group is empty",
    },
    "tbt_compile/quantizers/ops.py": {
        "BLOCK = 2**20 -> BLOCK = 2^20": MEMORY,
        "EXACT = 2**24 -> EXACT = 2** 23": FLOAT64,
        "EXACT = 2**24 -> EXACT = 2>>24": FLOAT64,
        "count = max(1, BLOCK * len(product) // max(1, product.numel())) -> "
        "count = max(1, BLOCK << len(product) // max(1, product.numel()))": MEMORY,
    },
    "tbt_compile/quantizers/split.py": {
        "negative, positive = ~kept & (exact < 0), ~kept & (exact > 0) -> "
        "negative, positive = ~kept & (exact < 0), ~kept * (exact > 0)": "a product of bools is their `and`",
        "negative, positive = ~kept & (exact < 0), ~kept & (exact > 0) -> "
        "negative, positive = ~kept & (exact <= 0), ~kept & (exact > 0)": "a zero adds nothing to the sum",
        "return (magnitude * where).sum(-1, keepdim=True) -> "
        "return (magnitude * where).sum(1, keepdim=True)": "a weight has two dimensions",
    },
    "tbt_compile/quantizers/weights.py": {
        "if torch.compiler.is_dynamo_compiling(): # takes no `out`; its compilers fuse the conversion -> "
        "if not torch.compiler.is_dynamo_compiling(): # takes no `out`; its compilers fuse the conversion": (
            "both ways give the same values; one is faster"
        ),
        "if encoding is Encoding.TERNARY: -> if encoding == Encoding.TERNARY:": IDENTITY,
    },
}
