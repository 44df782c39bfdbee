"""`tbt targets`: the kernels of every CPU, in the table and in JSON."""

from __future__ import annotations


def test_json_says_what_multiplies(tbt) -> None:
    rows = {row["cpu"]: row for row in tbt("targets", "--json", "-").json()["targets"]}
    board, server = rows["cortex-a72"], rows["znver4"]
    assert (board["popcount"], board["dot"], board["vector_bits"]) == ("byte popcount", "widening", 128)
    assert (server["popcount"], server["dot"], server["vector_bits"]) == ("vector popcount", "vnni", 512)
    assert rows["haswell"]["popcount"] == "table look-up"
    assert rows["haswell"]["systems"] == ["linux", "windows"]
    assert rows["cortex-a72"]["systems"] == ["linux"]
    assert rows["apple-m2"]["systems"] == ["macos", "linux"]
    assert board["features"] == ["neon"]
    assert list(board["strategies"]) == ["1 x 1", "2 x 2", "8 x 1", "8 x 2", "8 x 8"]
    few, many, rows_from = (
        server["strategies"]["8 x 2"][key] for key in ("few_rows", "many_rows", "many_from")
    )
    assert (few, many, rows_from) == ("packed dot", "unpacked dot", 32)
    assert board["strategies"]["8 x 2"]["layout"] == "quarters"
    assert all(found["why"] for row in rows.values() for found in row["strategies"].values())


def test_the_table_names_kernels_and_reasons(tbt) -> None:
    shown = tbt("targets").out
    for words in ("carry-save", "LUT", "packed dot", "int8 GEMV", "no vector popcount"):
        assert words in shown
