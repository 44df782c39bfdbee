"""The summary of a model is the same at every stage, and its sums are those of the model and of its files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from compiled_tools import Case, trained
from models import INNER, VOCABULARY, WIDTH, bart
from torch import Tensor, nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

import tbt_compile
from tbt_compile import Recipe, Summary
from tbt_compile.errors import CaptureError, MissingPackageError, PlanError
from tbt_compile.inspection.summary_text import summary_text
from tbt_compile.reproduce.paper import paper_table
from tbt_compile.reproduce.size import float_mib
from tbt_compile.storage.model_folder import folder_bytes

MIB = 2**20


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case.shared(bart(), "2-2-2", "summary-bart", tmp_path_factory)


def bits(summary: Summary) -> dict[str, object]:
    return {layer.name: (layer.weight, layer.activations) for layer in summary if layer.bytes_before}


def test_every_stage_names_the_same_bits(case: Case, tmp_path: Path) -> None:
    prepared = tbt_compile.summary(case.eager)
    frozen = tbt_compile.freeze(case.eager)
    loaded = tbt_compile.load(frozen.save(tmp_path / "frozen"))
    summaries = [prepared, *map(tbt_compile.summary, (frozen, loaded, case.compiled))]
    assert [each.stage for each in summaries] == ["prepared", "frozen", "frozen", "compiled"]
    for other in summaries[1:]:
        assert bits(other) == bits(prepared)
        assert (other.macs, other.parameters, other.bytes_before) == (
            prepared.macs,
            prepared.parameters,
            prepared.bytes_before,
        )
    attention = prepared["model.encoder.layers.0.self_attn"].activations
    assert [(each.name, each.category) for each in attention] == [
        ("query", "signed"),
        ("key", "signed"),
        ("probabilities", "non-negative"),
        ("value", "signed"),
    ]
    assert attention[2].why == "non-negative: output of softmax"
    assert prepared["lm_head"].tied_to == "model.shared"
    assert prepared["lm_head"].bits == (8, 2)


def test_sums_are_those_of_the_model(case: Case) -> None:
    model = bart()
    before, after = tbt_compile.summary(model), tbt_compile.summary(case.eager)
    assert before.parameters == after.parameters == sum(x.numel() for x in model.parameters())
    assert before.bytes_before == before.bytes_after == after.bytes_before
    buffers = sum(x.nbytes for x in model.buffers())
    assert before.bytes_before == pytest.approx(float_mib(model) * MIB + buffers)
    assert before.stage == "float" and before.float_share == 1
    assert before["lm_head"].tied_to == "model.shared"
    assert sum(before.macs.values()) == sum(after.macs.values())


def test_multiplications_are_those_of_the_layers(case: Case) -> None:
    found = tbt_compile.summary(case.eager, tokens=8)
    layer = found["model.encoder.layers.0.fc1"]
    assert layer.macs == 8 * WIDTH * INNER
    assert found["model.encoder.layers.0.self_attn"].macs == 2 * 8 * 8 * WIDTH
    assert found["lm_head"].macs == 8 * WIDTH * VOCABULARY
    assert found.macs["8 x 2"] == 8 * WIDTH * VOCABULARY
    assert found.float_share == 0
    ids = torch.ones(3, 4, dtype=torch.int64)
    called = tbt_compile.summary(case.eager, {"input_ids": ids, "decoder_input_ids": ids})
    assert called["model.encoder.layers.0.fc1"].macs == 3 * 4 * WIDTH * INNER
    assert called.call == "input_ids [3, 4], decoder_input_ids [3, 4]"


def test_what_the_recipe_excludes_stays_in_float() -> None:
    recipe = Recipe.parse("2-2-2", exclude=("*.lm_head", "lm_head", "*.decoder.layers.*"))
    model = trained(bart(), recipe)
    whole = sum(x.numel() for x in bart().parameters())
    for found in (tbt_compile.summary(model), tbt_compile.summary(tbt_compile.freeze(model))):
        head = found["lm_head"]
        assert (head.weight, head.in_float, head.activations) == ("float32", True, ())
        assert found.parameters == whole
        assert 0 < found.float_share < 1
        in_float = sum(layer.macs for layer in found if layer.in_float)
        assert found.float_share == pytest.approx(in_float / sum(found.macs.values()))
        assert found["model.encoder.layers.0.fc1"].bits == (2, 2)


def test_summary_leaves_the_model_as_it_was() -> None:
    model = tbt_compile.prepare(bart(), "2-2-2").train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    found = tbt_compile.summary(model)
    assert found.macs and model.training and all(module.training for module in model.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(value.any() for name, value in state.items() if name.endswith("initialized"))


def test_bart_base_has_the_size_of_the_paper_and_of_its_folder(tmp_path: Path) -> None:
    sizes = {"d_model": 768, "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072}
    depth = {"encoder_layers": 6, "decoder_layers": 6}
    heads = {"encoder_attention_heads": 12, "decoder_attention_heads": 12}
    model = BartForConditionalGeneration(BartConfig(**sizes, **depth, **heads))
    tbt_compile.prepare(model, "2-2-2")
    with torch.no_grad():
        model(input_ids=torch.arange(3, 7)[None], decoder_input_ids=torch.arange(3, 6)[None])
    frozen = tbt_compile.freeze(model)
    del model
    found = tbt_compile.summary(frozen)
    assert found.bytes_before / MIB == pytest.approx(532, abs=0.3)
    rows = paper_table("table1").rows
    printed = next(row.size for row in rows if (row.method, row.notation) == ("tbt", "2-2-2"))
    assert round(found.nominal_bytes / MIB, 1) == printed
    assert found.bytes_after == pytest.approx(folder_bytes(frozen.save(tmp_path / "frozen")), rel=0.01)


def test_a_compiled_folder_tells_its_size_without_torch(case: Case) -> None:
    found = tbt_compile.summary(case.loaded())
    files = sum(file.stat().st_size for file in case.folder.iterdir() if file.suffix in (".so", ".bin"))
    padding = 64 * (2 + len(case.compiled._tensors))
    assert files - padding <= found.bytes_after <= files
    assert found["(libraries)"].kind == "model.so"
    with pytest.raises(CaptureError, match="counts of its compilation"):
        tbt_compile.summary(case.compiled, {"input_ids": np.ones((1, 2))})
    older = case.loaded()
    del older.description["summary"]
    with pytest.raises(PlanError, match="lower it again"):
        tbt_compile.summary(older)


def test_a_summary_survives_json_and_becomes_a_frame(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    found = tbt_compile.summary(case.compiled)
    assert Summary.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    frame = found.to_dataframe()
    assert list(frame.name) == [layer.name for layer in found]
    assert frame.bytes_after.sum() == found.bytes_after
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingPackageError, match="pip install pandas"):
        found.to_dataframe()


def test_the_tree_adds_up_and_folds_blocks_that_are_alike(case: Case) -> None:
    found = tbt_compile.summary(case.eager)
    whole, cut = summary_text(found).splitlines(), summary_text(found, 2).splitlines()
    assert whole[0].startswith(
        "BartForConditionalGeneration, prepared at 2-2-2: 50.2 K parameters, 196 KiB -> "
    )
    assert sum("as model.encoder.layers.0" in line for line in whole) == 1
    assert not any("layers" in line for line in cut)
    html = found._repr_html_()
    assert html.count("<tr>") == len(whole) - 4 and "ternary012" in html


def test_no_more_tokens_than_positions() -> None:
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "vocab_size": 60, "num_mel_bins": 4}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    tokens = {"pad_token_id": 1, "bos_token_id": 2, "eos_token_id": 2, "decoder_start_token_id": 3}
    lengths = {"max_source_positions": 20, "max_target_positions": 24}
    model = WhisperForConditionalGeneration(WhisperConfig(**sizes, **heads, **tokens, **lengths))
    found = tbt_compile.summary(model)
    assert found.call == "input_features [1, 4, 40], decoder_input_ids [1, 24]"
    assert found.float_share == 1


class Calls(nn.Module):
    """Multiplies by a parameter of its own, twice, and by one of another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)
        self.matrix = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(torch.relu(x @ self.matrix), self.inner.weight) + self.inner.bias


def test_calls_of_functions_are_layers() -> None:
    x = torch.randn(4, 8)
    model = tbt_compile.prepare(Calls(), "2-2-2", x)
    model(x)
    for found in (tbt_compile.summary(model), tbt_compile.summary(tbt_compile.freeze(model))):
        assert found.parameters == 8 * 8 * 2 + 8
        assert found["inner"].bits == (2, 2) and found["inner"].macs == 4 * 8 * 8
        assert found["tbt_calls.0"].macs == 4 * 8 * 8
        assert found["inner"].activations[0].category == "non-negative"
    plain = tbt_compile.summary(Calls())
    assert plain.uncounted.startswith("nothing records how Calls is called") and plain.float_share is None
    assert "MACs not counted" in str(plain)
    assert tbt_compile.summary(Calls(), x).macs == {"32 x 32": 2 * 4 * 8 * 8}
    with pytest.raises(CaptureError, match="cannot be called with x \\[4, 5\\]"):
        tbt_compile.summary(Calls(), torch.randn(4, 5))
