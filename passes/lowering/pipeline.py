"""The lowering pipeline, from the exported graph of a frozen model to operators with kernels."""

from __future__ import annotations

from tbt_compile.passes.base import Pipeline
from tbt_compile.passes.lowering.check_fused import CheckFused
from tbt_compile.passes.lowering.clean_up import CleanUp
from tbt_compile.passes.lowering.context import LoweringContext
from tbt_compile.passes.lowering.fold_head_transposes import FoldHeadTransposes
from tbt_compile.passes.lowering.fold_repeat_kv import FoldRepeatKV
from tbt_compile.passes.lowering.fuse_add_layer_norm import FuseAddLayerNorm
from tbt_compile.passes.lowering.fuse_attention import FuseAttention
from tbt_compile.passes.lowering.fuse_attention_products import FuseAttentionProducts
from tbt_compile.passes.lowering.fuse_embedding import FuseEmbedding
from tbt_compile.passes.lowering.fuse_hadamard import FuseHadamard
from tbt_compile.passes.lowering.fuse_linear import FuseLinear
from tbt_compile.passes.lowering.fuse_linear_activation import FuseLinearActivation
from tbt_compile.passes.lowering.fuse_masked_softmax import FuseMaskedSoftmax
from tbt_compile.passes.lowering.fuse_rms_norm import FuseRmsNorm
from tbt_compile.passes.lowering.pack_kv_cache import PackKVCache


def lowering_pipeline() -> Pipeline[LoweringContext]:
    """The lowering passes in order."""
    return Pipeline(
        "lowering",
        [
            CleanUp(),  # identities, empty concatenation operands, assertions
            FuseLinear(),  # quantize, product, scales, bias -> bit_linear
            FuseHadamard(),  # rotation of the input -> bit_linear
            FuseLinearActivation(),  # activation -> epilogue of bit_linear
            FuseEmbedding(),  # unpack, lookup, scales -> bit_embedding
            FuseAttentionProducts(),  # QK^T and PV on packed keys and values
            FoldRepeatKV(),  # grouped query heads share packed keys and values
            FuseMaskedSoftmax(),  # scale and mask -> masked_softmax
            FuseAttention(),  # QK^T, softmax, PV -> attention
            FuseAddLayerNorm(),  # residual sum and norm -> add_layer_norm
            FuseRmsNorm(),  # square, mean, rsqrt, products -> rms_norm
            PackKVCache(),  # caches enter and leave the unit packed
            FoldHeadTransposes(),  # attention reads `[B, T, H, D]` in place
            CheckFused(),  # every quantized operation has an operator
        ],
    )
