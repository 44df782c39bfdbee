"""The lowering pipeline, from the exported graph of a frozen model to operators that have kernels."""

from __future__ import annotations

from tbt_compile.passes.base import Pipeline
from tbt_compile.passes.lowering.check import CheckFused
from tbt_compile.passes.lowering.clean_up import CleanUp
from tbt_compile.passes.lowering.context import LoweringContext
from tbt_compile.passes.lowering.drop_transposes import DropTransposes
from tbt_compile.passes.lowering.fuse_activation import FuseActivation
from tbt_compile.passes.lowering.fuse_attention import FuseAttention
from tbt_compile.passes.lowering.fuse_embedding import FuseEmbedding
from tbt_compile.passes.lowering.fuse_heads import FuseHeads
from tbt_compile.passes.lowering.fuse_linear import FuseLinear
from tbt_compile.passes.lowering.fuse_norm import FuseNorm
from tbt_compile.passes.lowering.fuse_rms_norm import FuseRmsNorm
from tbt_compile.passes.lowering.fuse_softmax import FuseSoftmax
from tbt_compile.passes.lowering.pack_caches import PackCaches
from tbt_compile.passes.lowering.share_heads import ShareHeads


def lowering_pipeline() -> Pipeline[LoweringContext]:
    """The passes in order; the dump of a phase is named after its pass."""
    return Pipeline(
        "lowering",
        [
            CleanUp(),
            FuseLinear(),
            FuseActivation(),
            FuseEmbedding(),
            FuseAttention(),
            ShareHeads(),
            FuseSoftmax(),
            FuseHeads(),
            FuseNorm(),
            FuseRmsNorm(),
            PackCaches(),
            DropTransposes(),
            CheckFused(),
        ],
    )
