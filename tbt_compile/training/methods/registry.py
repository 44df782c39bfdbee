"""The registry of training methods by name.

To add one, write it in a file of this folder and list it in `METHODS`;
`docs/extending/add-a-training-method.md` shows how.
"""

from __future__ import annotations

import re

from tbt_compile.errors import MethodError, did_you_mean
from tbt_compile.training.methods import tbt
from tbt_compile.training.methods.base import Method
from tbt_compile.training.methods.bibert import BIBERT
from tbt_compile.training.methods.binarybert import BINARYBERT
from tbt_compile.training.methods.blockpruning import BLOCKPRUNING
from tbt_compile.training.methods.dqbart import dq_bart
from tbt_compile.training.methods.quantbart import QUANTBART
from tbt_compile.training.methods.staged import STAGED, STAGED_PLUS
from tbt_compile.training.methods.ternarybert import TERNARYBERT

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        tbt.TBT,
        tbt.PLUS,
        tbt.TWN,
        tbt.BWN,
        tbt.LEARNED_ACTIVATIONS,
        tbt.STATS_WEIGHTS,
        STAGED,
        STAGED_PLUS,
        TERNARYBERT,
        BINARYBERT,
        BIBERT,
        QUANTBART,
        dq_bart(),
        dq_bart(6, 1),
        dq_bart(3, 1),
        BLOCKPRUNING,
    )
}
_SHALLOW = re.compile(r"dq-bart-([1-9]\d*)-([1-9]\d*)")


def get_method(name: str) -> Method:
    """The method called `name`; "dq-bart-E-D" has a student with E encoder and D decoder layers.

    Raises:
        MethodError: the method is unknown.
    """
    if name in METHODS:
        return METHODS[name]
    shallow = _SHALLOW.fullmatch(name)
    if shallow:
        return dq_bart(int(shallow[1]), int(shallow[2]))
    raise MethodError(
        f"unknown method {name!r}: expected one of {', '.join(METHODS)}." + did_you_mean(name, METHODS)
    )
