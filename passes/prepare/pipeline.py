"""The prepare pipeline: from a full-precision model to one with quantizers."""

from __future__ import annotations

from tbt_compile.passes.base import Pipeline
from tbt_compile.passes.prepare.capture import Capture
from tbt_compile.passes.prepare.classify import ClassifyActivations
from tbt_compile.passes.prepare.context import PrepareContext
from tbt_compile.passes.prepare.find_sites import FindSites
from tbt_compile.passes.prepare.insert_quantizers import InsertQuantizers
from tbt_compile.passes.prepare.plan import CheckLowering, MakePlan
from tbt_compile.passes.prepare.rotate import FindRotated, PlanRotations, RotateWeights
from tbt_compile.passes.prepare.write_back import WriteBack

# `PLAN` only reads the model; `PREPARE` changes it.
PLAN: Pipeline[PrepareContext] = Pipeline(
    "plan",
    (
        Capture(),  # torch.export, eager attention -> ATen graph
        ClassifyActivations(),  # which tensors can never be negative
        FindSites(),  # linear layers, embeddings, attention products
        MakePlan(),  # encodings, and a reason for each
        PlanRotations(),  # inputs that are rotated first, as the recipe asks
        CheckLowering(),  # what will not compile
    ),
)
PREPARE: Pipeline[PrepareContext] = Pipeline(
    "prepare",
    (
        *PLAN.passes,
        FindRotated(),  # weights that are not what the recipe makes of them
        InsertQuantizers(),  # the graph becomes the quantized reference
        WriteBack(),  # the same quantizers go into the eager model
        RotateWeights(),  # weights that belong to rotated inputs
    ),
)
