"""The methods by name."""

from __future__ import annotations

from tbt_compile.errors import MethodError, did_you_mean
from tbt_compile.training.methods import tbt
from tbt_compile.training.methods.base import Method

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        tbt.TBT,
        tbt.TWN,
        tbt.BWN,
        tbt.LEARNED_ACTIVATIONS,
        tbt.STATS_WEIGHTS,
    )
}


def get_method(name: str) -> Method:
    """The method of that name.

    Raises:
        MethodError: there is none.
    """
    if name not in METHODS:
        raise MethodError(
            f"unknown method {name!r}: expected one of {', '.join(METHODS)}." + did_you_mean(name, METHODS)
        )
    return METHODS[name]
