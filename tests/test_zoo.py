"""The zoo: its table says what comes out today, and its parts do what the table needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

ROOT = Path(__file__).resolve().parent.parent
ZOO = ROOT / "examples" / "zoo.py"
TABLE = ROOT / "docs" / "compatibility.json"
sys.path.insert(0, str(ZOO.parent / "architectures"))

from zoo_case import outcome  # noqa: E402
from zoo_models import architectures, family, tiny_config, tiny_model  # noqa: E402
from zoo_sizes import VOCABULARY, WINDOW  # noqa: E402
from zoo_table import markdown  # noqa: E402


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(ZOO), *arguments], capture_output=True, text=True, check=False)


def test_the_table_is_checked_against_new_outcomes(tmp_path: Path) -> None:
    rows = json.loads(TABLE.read_text())
    chosen = ("causal/gemma2", "causal/mixtral")
    assert [rows[name]["outcome"] for name in chosen] == ["equal", "refused"]
    common = ["--kinds", "causal", "--only", "gemma2,mixtral", "--stage", "capture", "--jobs", "1"]
    common += ["--json", str(tmp_path / "out.json"), "--logs", str(tmp_path / "logs")]
    checked = run(*common, "--check", str(TABLE))
    assert checked.returncode == 0, checked.stderr
    other = {name: {"outcome": "wrong"} for name in chosen}
    (tmp_path / "other.json").write_text(json.dumps(other))
    resumed = run(*common, "--check", str(tmp_path / "other.json"))
    assert resumed.returncode == 1
    assert "causal/mixtral: refused (MixtralForCausalLM is a mixture of experts" in resumed.stderr


def test_no_row_is_wrong_and_every_refusal_has_a_reason() -> None:
    rows = json.loads(TABLE.read_text())
    assert {row["outcome"] for row in rows.values()} <= {"equal", "refused", "untried"}
    assert all(row["reason"].strip() for row in rows.values() if row["outcome"] != "equal")


@pytest.mark.parametrize(
    ("kind", "model_type"),
    [
        ("causal", "doge"),  # something else than attention reads its values
        ("speech", "speech-encoder-decoder"),  # the encoder has a name of its own for the audio
        ("vision", "pp_formulanet"),  # its decoder reads what the encoder calls its pooled output
        ("vision", "pix2struct"),  # patches come with their places
    ],
)
def test_tokens_are_equal(kind: str, model_type: str) -> None:
    found = outcome(kind, model_type, "2-2-8", "lower")
    assert found["outcome"] == "equal", found["reason"]


def test_models_without_a_cache_are_refused() -> None:
    found = outcome("causal", "xlnet", "2-2-8", "lower")
    assert found["outcome"] == "refused"
    assert found["reason"].startswith("XLNetLMHeadModel keeps no cache of keys and values, so that every")


@pytest.mark.parametrize(("model_type", "expected"), [("gemma2", ""), ("mixtral", "mixture of experts")])
def test_models_are_small_and_random(model_type: str, expected: str) -> None:
    model = tiny_model("causal", model_type)
    assert sum(parameter.numel() for parameter in model.parameters()) < 200_000
    assert all(parameter.std() > 0.01 for parameter in model.parameters() if parameter.numel() > 8)
    assert family(model) == expected
    config = tiny_config(CONFIG_MAPPING["gemma2"])
    assert (config.vocab_size, config.sliding_window) == (VOCABULARY, WINDOW)
    assert set(config.layer_types) == {"sliding_attention", "full_attention"}


def test_parts_of_a_small_model_fit() -> None:
    qwen, spark, next_glm = (
        tiny_config(CONFIG_MAPPING[name]) for name in ("qwen2_vl", "muse_spark", "glm5_next")
    )
    assert qwen.text_config.rope_parameters["mrope_section"] == [2, 1, 1]  # half of a head
    assert (spark.audio_config.num_hidden_layers, len(spark.audio_config.depths)) == (2, 2)
    assert spark.audio_config.out_hidden_size == spark.text_config.hidden_size
    assert next_glm.text_config.qk_rope_head_dim == 0  # no rotary embedding
    assert tiny_config(CONFIG_MAPPING["mistral3"]).text_config.sliding_window is None  # of Mistral 3 alone


def test_only_models_that_generate_are_listed() -> None:
    assert "qwen2_vl" in architectures("vision")
    assert "pi0" not in architectures("vision")


def test_a_refusal_names_what_inputs_would_not_change() -> None:
    found = outcome("vision", "blip-2", "2-2-8", "capture")
    assert found["reason"].startswith("Blip2ForConditionalGeneration replaces generate of transformers'")


def test_the_page() -> None:
    rows = {
        "causal/a": {"class": "A", "outcome": "equal", "reason": "", "family": ""},
        "causal/b": {
            "class": "B",
            "outcome": "refused",
            "reason": "a | b\nc",
            "family": "mixture of experts",
        },
        "seq2seq/c": {"class": "C", "outcome": "refused", "reason": "no", "family": ""},
    }
    page = markdown(rows, "5.0", "2-2-8", "command")
    assert "| Decoder-only | 1 | 1 | 0 | 1 of 1 (100 %) |" in page
    assert "| Encoder-decoder | 0 | 1 | 0 | 0 of 1 (0 %) |" in page
    assert "| b | B | refused | a \\| b c |" in page
