"""Where scales may be set from the first batch; `tests/training/test_processes.py` has real processes."""

from __future__ import annotations

import pytest

from tbt_compile.errors import PlanError
from tbt_compile.quantizers import first_batch
from tbt_compile.quantizers.first_batch import check_first_batch, same_batch


def processes(
    monkeypatch: pytest.MonkeyPatch, count: int, *, available: bool = True, started: bool = True
) -> None:
    monkeypatch.setattr(first_batch.dist, "is_available", lambda: available)
    monkeypatch.setattr(first_batch.dist, "is_initialized", lambda: started)
    monkeypatch.setattr(first_batch.dist, "get_world_size", lambda: count)


@pytest.mark.parametrize(
    "alone", [{"count": 1}, {"count": 2, "available": False}, {"count": 2, "started": False}]
)
def test_one_process_may_set_them(monkeypatch: pytest.MonkeyPatch, alone: dict) -> None:
    processes(monkeypatch, **alone)
    check_first_batch()


def test_several_may_if_they_see_the_same_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    processes(monkeypatch, 2)
    with pytest.raises(PlanError, match="every process would set them from another batch"):
        check_first_batch()
    with same_batch():
        check_first_batch()
        with same_batch():
            check_first_batch()
        check_first_batch()  # the inner block does not end the outer one
    with pytest.raises(PlanError):
        check_first_batch()
    with pytest.raises(RuntimeError), same_batch():
        raise RuntimeError
    with pytest.raises(PlanError):
        check_first_batch()
