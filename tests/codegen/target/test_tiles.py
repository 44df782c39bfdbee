"""Register tiles: where they come from, what is refused, and that none of them changes a result."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from kernel_tools import build, call, codes, floats, isa_of, powers, runnable, scalar
from torch import nn

import tbt_compile
from tbt_compile.codegen import reference
from tbt_compile.codegen.kernels.linear.linear import LinearSpec, linear
from tbt_compile.codegen.target import tiles
from tbt_compile.codegen.target.isa import Isa
from tbt_compile.codegen.target.parse import parse_target
from tbt_compile.codegen.target.tiles import Tile
from tbt_compile.codegen.tools import tuner
from tbt_compile.codegen.tools.standalone import stored_weight
from tbt_compile.encoding import Encoding
from tbt_compile.errors import FormatError

HOST, *OTHERS = runnable("haswell", "skylake-avx512")
PORTABLE = Isa.from_features("unheard-of", ())


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cache" / "tiles.json"
    monkeypatch.setenv("TBT_TILES", str(path))
    return path


def test_the_users_file_comes_before_the_package_and_that_before_the_rule(
    user: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual, packaged, own = Tile(1, 1), Tile(2, 2), Tile(4, 1)
    assert tiles.tile(PORTABLE, "planes a*b", usual) == usual
    monkeypatch.setattr(tiles, "PACKAGED", tmp_path / "packaged.json")
    tiles.write(tiles.PACKAGED, PORTABLE, {"planes a*b": {"rows": 2, "vectors": 2}})
    assert tiles.tile(PORTABLE, "planes a*b", usual) == packaged
    tiles.write(user, PORTABLE, {"planes a*b": {"rows": 4, "vectors": 1}})
    tiles.write(user, PORTABLE, {"row a*b": {"rows": 1, "vectors": 4}})
    assert tiles.tile(PORTABLE, "planes a*b", usual) == own
    assert tiles.tile(PORTABLE, "planes a*c", usual) == usual
    assert [path.name for path in user.parent.iterdir()] == ["tiles.json"]
    with tiles.use("planes a*b", packaged), tiles.recording() as chosen:
        assert tiles.tile(PORTABLE, "planes a*b", usual) == packaged
    assert chosen == {"planes a*b": "2 x 2"}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"a": {"b": {"rows": 4}}}',
        '{"a": {"b": {"rows": 3, "vectors": 1}}}',
        '{"a": {"b": {"rows": 4.0, "vectors": 1}}}',
        '{"a": {"b": {"rows": true, "vectors": 1}}}',
    ],
)
def test_a_broken_file_is_named_and_stays(user: Path, text: str) -> None:
    user.parent.mkdir()
    user.write_text(text)
    with pytest.raises(FormatError, match=r"tiles\.json is not a tile file: remove it"):
        tiles.tile(PORTABLE, "planes a*b", Tile(1, 1))
    with pytest.raises(FormatError, match="tbt tune"):
        tiles.write(user, PORTABLE, {})
    assert user.read_text() == text


@pytest.mark.parametrize("place", ["", "below/tiles.json"])
def test_a_file_that_cannot_be_read_is_named_before_anything_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    (tmp_path / "below").touch()
    monkeypatch.setenv("TBT_TILES", str(tmp_path / place))
    module = tbt_compile.prepare(nn.Linear(8, 4), "2-2-2", example_inputs=(torch.ones(2, 8),))
    module(torch.ones(2, 8))
    with pytest.raises(FormatError, match=f"cannot read {tmp_path}"):
        tbt_compile.lower(module)


def test_a_home_that_may_not_be_entered_holds_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **options: bool) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.delenv("TBT_TILES", raising=False)
    monkeypatch.setattr(Path, "stat", refuse)
    assert tiles.read(tiles.user_path()) == {}
    monkeypatch.setenv("TBT_TILES", "/root/tiles.json")
    with pytest.raises(FormatError, match="cannot read /root/tiles.json: Permission denied"):
        tiles.read(tiles.user_path())


def test_the_packaged_file_is_one_of_tiles() -> None:
    packaged = tiles.read(tiles.PACKAGED)
    assert {name.split(" bits")[0] for name in packaged} == {"256", "512"}
    for kernels in packaged.values():
        for entry in kernels.values():
            assert set(entry["measured"]) == {"cpu", "shape", "us"}


def covering(choices: Sequence[Tile]) -> list[Tile]:
    """Some of the tiles, with every number of rows and every number of vectors among them."""
    kept: list[Tile] = []
    for choice in choices:
        known = {tile.rows for tile in kept}, {tile.vectors for tile in kept}
        if choice.rows not in known[0] or choice.vectors not in known[1]:
            kept.append(choice)
    return kept


def representatives(kernels: Sequence[str]) -> list[str]:
    """The kernels with every kind and every weight: of two activations of a weight, rows have one, tiles the
    other. The kernels' own tests have all activations."""
    signed, unsigned = ("binary*", "ternary*"), ("binary01*", "ternary012*")
    left_out = {"row": unsigned, "planes": signed, "lookup": signed}
    return [name for name in kernels if not name.split()[1].startswith(left_out.get(name.split()[0], ("-",)))]


@pytest.mark.parametrize(
    ("cpu", "kernel"),
    [
        *((HOST, name) for name in representatives([q.kernel for q in tuner.tuning_tasks(isa_of(HOST))])),
        *((cpu, kernel) for cpu in OTHERS for kernel in ("lookup binary*binary", "bytes int8")),
    ],
)
def test_no_tile_changes_a_result(cpu: str, kernel: str) -> None:
    """Tiles of every size that the tuner may choose, with sums that leave rests everywhere."""
    n, k, rows = 75, 130, 15
    isa = isa_of(cpu)
    asked = [question for question in tuner.tuning_tasks(isa) if question.kernel == kernel]
    assert asked
    for question in asked:
        activation, weight = question.spec.activation, question.spec.weight
        table, scale, x = codes(1, weight, n, k), powers(2, n), floats(3, rows, k)
        x_codes, x_scale = reference.quantize(x, activation, 0.5, True)
        expected = reference.linear(x_codes, x_scale, table, scale)
        count = 7 if question.rows == 1 else rows
        spec = LinearSpec(n, k, activation, weight, True, False, isa)
        stored = stored_weight(table, spec)
        for choice in covering(question.tiles):
            with tiles.use(question.kernel, choice):
                run = build(linear(spec), cpu)["kernel"]
            y = call(run, [x[:count], scalar(0.5), stored, scale], (count, n), np.float32)
            np.testing.assert_array_equal(y, expected[:count], f"{question.kernel} {choice}")


def test_tuning_measures_and_keeps_the_usual_unless_another_is_clearly_faster(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = parse_target("host")
    question = tuner.TuningTask(
        "row binary*binary",
        LinearSpec(64, 64, Encoding.BINARY, Encoding.BINARY, True, True, spec.isa),
        1,
        (Tile(1, 4), Tile(1, 2), Tile(1, 1)),
    )
    monkeypatch.setattr(tuner, "tuning_tasks", lambda isa: [question])
    times = iter([1.0, 0.97, 1.2] * 100)
    monkeypatch.setattr(tuner, "_timed", lambda call: next(times) * 1e-6)
    result = tuner.tune(spec)["row binary*binary"]
    assert (result["rows"], result["vectors"]) == (1, 4)
    times = iter([1.0, 0.9, 1.2] * 100)
    result = tuner.tune(spec)["row binary*binary"]
    assert (result["rows"], result["vectors"]) == (1, 2)
    assert result["measured"]["us"] == {"1 x 4": 1.0, "1 x 2": 0.9, "1 x 1": 1.2}
    json.dumps(result)


def test_recordings_and_forced_tiles_nest() -> None:
    isa = parse_target("haswell").isa
    with tiles.recording() as outer, tiles.use("nested", Tile(1, 1)):
        with tiles.recording() as inner, tiles.use("nested", Tile(2, 1)):
            assert tiles.tile(isa, "nested", Tile(4, 4)) == Tile(2, 1)
        assert tiles.tile(isa, "nested", Tile(4, 4)) == Tile(1, 1)
    assert inner == {"nested": str(Tile(2, 1))}
    assert outer == {"nested": str(Tile(1, 1))}
    assert tiles.tile(isa, "nested", Tile(4, 4)) == Tile(4, 4)
