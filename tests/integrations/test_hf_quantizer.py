"""`from_pretrained` of transformers gives prepared and frozen models, also in a process of its own."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from models import FAMILIES, bart, batch, generate
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

import tbt_compile
from tbt_compile import TbtConfig
from tbt_compile.adapters.pretrained import load_generator
from tbt_compile.checkpoints.loading import from_pretrained
from tbt_compile.errors import FormatError, PlanError, RecipeError
from tbt_compile.modules import is_prepared

FAMILY = ("bart", "t5", "llama")
KINDS = ("prepared", "saved", "pretrained")
# What a user's program does: nothing but `import tbt_compile` before transformers' own call.
PROGRAM = """
import sys, torch, tbt_compile
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
found = {}
for name, (seq2seq, folder, options) in torch.load(sys.argv[1]).items():
    kind = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    model = kind.from_pretrained(folder)
    trainable = sum(parameter.requires_grad for parameter in model.parameters())
    found[name] = (model.generate(**options), type(model).__name__, model.training, trainable)
torch.save(found, sys.argv[2])
"""


def auto(family: str) -> Any:
    return AutoModelForCausalLM if family == "llama" else AutoModelForSeq2SeqLM


def checkpoint(family: str, folder: Path) -> Path:
    FAMILIES[family](layers=1).save_pretrained(folder)
    return folder


def prepared(family: str, folder: Path, recipe: Any = "2-2-2", **options: Any) -> Any:
    """A full-precision checkpoint, read and prepared through transformers, after one batch."""
    config = TbtConfig(recipe, **options)
    model = auto(family).from_pretrained(checkpoint(family, folder), quantization_config=config)
    model.train()
    model(**batch(model)).loss.backward()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".scale"):
                parameter.mul_(1.37)
    model.zero_grad()
    return model.eval()


def options(model: PreTrainedModel) -> dict[str, Any]:
    inputs = {name: value for name, value in batch(model).items() if name != "labels"}
    return {**inputs, "num_beams": 3, "max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    """Models saved in every way, and what a new process makes of their folders."""
    work = tmp_path_factory.mktemp("elsewhere")
    models, asked = {}, {}
    for family in FAMILY:
        model = prepared(family, work / family)
        frozen = tbt_compile.freeze(model)
        folders = [work / f"{family}-{kind}" for kind in KINDS]
        model.save_pretrained(folders[0])
        frozen.save(folders[1])
        frozen.module.save_pretrained(folders[2])
        for kind, folder, saved in zip(KINDS, folders, (model, frozen.module, frozen.module), strict=True):
            models[family, kind] = saved
            asked[family, kind] = (family != "llama", str(folder), options(saved))
    torch.save(asked, work / "asked.pt")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(work / "asked.pt"), str(work / "found.pt")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert not [word for word in ("UNEXPECTED", "MISSING") if word in done.stderr + done.stdout]
    found = torch.load(work / "found.pt")
    return {key: (models[key], found[key]) for key in models}


def test_a_quantization_config_prepares_what_prepare_prepares(tmp_path: Path) -> None:
    loaded = AutoModelForSeq2SeqLM.from_pretrained(
        checkpoint("bart", tmp_path), quantization_config=TbtConfig("2-2-8", exclude=("lm_head",))
    )
    recipe = tbt_compile.Recipe.parse("2-2-8", exclude=("lm_head",))
    expected = tbt_compile.prepare(bart(layers=1), recipe)
    assert type(loaded) is type(expected)
    assert loaded.state_dict().keys() == expected.state_dict().keys()
    assert loaded.config.quantization_config.recipe == recipe
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert torch.equal(loaded(**batch(loaded)).logits, expected(**batch(expected)).logits)


@pytest.mark.parametrize("family", FAMILY)
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_process_generates_the_same(
    family: str, kind: str, elsewhere: dict[Any, tuple[Any, Any]]
) -> None:
    model, (tokens, name, training, trainable) = elsewhere[family, kind]
    assert torch.equal(tokens, model.generate(**options(model)))
    assert (name, training) == (type(model).__name__, False)
    assert trainable == (len(list(model.parameters())) if kind == "prepared" else 0)


def test_a_loaded_model_trains_on_as_a_prepared_one(tmp_path: Path) -> None:
    model = prepared("bart", tmp_path / "float")
    model.save_pretrained(tmp_path / "prepared")
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "prepared")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name]), name
    assert loaded.model.shared.weight is loaded.lm_head.weight
    one, other = (part.train() for part in (model, loaded))
    for part in (one, other):
        optimizer = torch.optim.SGD(part.parameters(), lr=0.1)
        torch.manual_seed(3)
        part(**batch(part)).loss.backward()
        optimizer.step()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    assert tbt_compile.prepare(loaded) is loaded
    loaded.bfloat16().float()  # an ordinary model may be converted
    frozen = tbt_compile.freeze(loaded.eval())
    assert frozen.recipe == tbt_compile.Recipe.parse("2-2-2")


def test_the_trainer_takes_a_prepared_model_and_refuses_a_frozen_one(tmp_path: Path) -> None:
    model = prepared("llama", tmp_path / "float")
    arguments = TrainingArguments(
        str(tmp_path / "run"),
        max_steps=2,
        report_to="none",
        use_cpu=True,
        save_strategy="steps",
        save_steps=2,
    )
    rows = [{name: row[i] for name, row in batch(model).items()} for i in range(3)]
    Trainer(model, arguments, train_dataset=rows).train()
    trained = auto("llama").from_pretrained(tmp_path / "run" / "checkpoint-2")
    assert is_prepared(trained)
    assert torch.equal(generate(trained), generate(model.eval()))
    frozen = tbt_compile.freeze(model).module
    with pytest.raises(ValueError, match="cannot perform fine-tuning on purely quantized models"):
        Trainer(frozen, arguments, train_dataset=rows)


def test_both_doors_open_both_folders(tmp_path: Path) -> None:
    model = prepared("bart", tmp_path / "float")
    model.save_pretrained(tmp_path / "prepared")
    frozen = tbt_compile.freeze(model)
    frozen.save(tmp_path / "saved")
    frozen.module.save_pretrained(tmp_path / "pretrained")
    expected = frozen.generate(**options(model))
    for folder in ("prepared", "saved", "pretrained"):
        ours = from_pretrained(tmp_path / folder)
        theirs = tbt_compile.freeze(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / folder))
        for found in (ours, theirs):
            assert found.recipe == frozen.recipe and found.dtypes == frozen.dtypes
            assert torch.equal(found.generate(**options(model)), expected), folder
            assert found.nbytes == frozen.nbytes
    again = tbt_compile.freeze(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "pretrained"))
    again.save(tmp_path / "again")
    assert (tmp_path / "again" / "tensors.safetensors").read_bytes() == (
        tmp_path / "saved" / "tensors.safetensors"
    ).read_bytes()
    with pytest.raises(FormatError, match="holds a frozen model.*load it with from_pretrained"):
        tbt_compile.load_prepared(tmp_path / "pretrained")


def test_a_frozen_model_holds_no_float_weight(tmp_path: Path) -> None:
    model = prepared("bart", tmp_path / "float")
    tbt_compile.freeze(model).module.save_pretrained(tmp_path / "frozen")
    tensors = load_file(tmp_path / "frozen" / "model.safetensors")
    assert not [name for name in tensors if name.endswith(("fc1.weight", "embed_tokens.weight"))]
    assert [name for name in tensors if name.endswith("packed")]
    packed = [tensor for tensor in tensors.values() if list(tensor.shape) == [96, 2, 1]]
    assert len(packed) == 1  # the shared embedding


def test_a_teacher_from_a_students_folder_has_no_quantizers(tmp_path: Path) -> None:
    model = prepared("bart", tmp_path / "float")
    model.save_pretrained(tmp_path / "prepared")
    teacher = load_generator(tmp_path / "prepared")
    assert not is_prepared(teacher)
    teacher.save_pretrained(tmp_path / "teacher")
    assert "quantization_config" not in json.loads((tmp_path / "teacher" / "config.json").read_text())


def test_another_recipe_starts_from_the_weights_of_a_student(tmp_path: Path) -> None:
    model = prepared("bart", tmp_path / "float")
    model.save_pretrained(tmp_path / "prepared")
    config = AutoConfig.from_pretrained(tmp_path / "prepared")
    del config.quantization_config
    plain = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "prepared", config=config)
    student = tbt_compile.prepare(plain, "1-1-1")
    assert student.config.quantization_config.recipe.notation == "1-1-1"
    assert torch.equal(student.lm_head.weight, model.lm_head.weight)


def test_folders_of_earlier_releases_are_prepared_by_hand(tmp_path: Path) -> None:
    model = prepared("bart", tmp_path / "float")
    model.save_pretrained(tmp_path / "earlier")
    config = tmp_path / "earlier" / "config.json"
    fields = json.loads(config.read_text())
    fields["tbt_recipe"] = fields.pop("quantization_config")["recipe"]
    config.write_text(json.dumps(fields))
    loaded = tbt_compile.prepare(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "earlier"))
    assert torch.equal(generate(loaded), generate(model))
    assert torch.equal(generate(tbt_compile.load_prepared(tmp_path / "earlier")), generate(model))


def test_what_cannot_be_loaded_is_refused(tmp_path: Path) -> None:
    model = prepared("bart", tmp_path / "float")
    frozen = tbt_compile.freeze(model)
    frozen.save(tmp_path / "saved")
    frozen.module.save_pretrained(tmp_path / "frozen")
    load = AutoModelForSeq2SeqLM.from_pretrained
    with pytest.raises(RecipeError, match="embedding_bits=3: expected 1"):
        TbtConfig("3-2-2")
    with pytest.raises(FormatError, match="frozen models compute in float32; leave dtype out"):
        load(tmp_path / "frozen", dtype=torch.bfloat16)
    with pytest.raises(FormatError, match=r"the checkpoint holds none: expected TbtConfig\('2-2-2'\)"):
        load(tmp_path / "float", quantization_config=frozen.module.config.quantization_config)
    with pytest.raises(PlanError, match="is prepared already"):
        tbt_compile.prepare(load(tmp_path / "saved"), "1-1-1")
    tensors = load_file(tmp_path / "frozen" / "model.safetensors")
    del tensors["lm_head.input_quantizer.scale"]
    save_file(tensors, tmp_path / "frozen" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FormatError, match=r"without lm_head\.input_quantizer\.scale"):
        load(tmp_path / "frozen")
    (tmp_path / "frozen" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(Exception, match="."):
        load(tmp_path / "frozen")
    file = tmp_path / "saved" / "tensors.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(FormatError, match=r"tensors\.safetensors was altered"):
        load(tmp_path / "saved")


def test_a_recipe_that_is_damaged_is_refused(tmp_path: Path) -> None:
    model = prepared("bart", tmp_path / "float")
    model.save_pretrained(tmp_path / "prepared")
    config = tmp_path / "prepared" / "config.json"
    fields = json.loads(config.read_text())
    fields["quantization_config"]["recipe"] = "2-2-2"
    config.write_text(json.dumps(fields))
    with pytest.raises(FormatError, match="expected its fields by name; save the model again"):
        AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "prepared")
    shutil.rmtree(tmp_path / "prepared")


@pytest.mark.parametrize("first", ["tbt_compile", "transformers.modeling_utils"])
def test_the_method_is_registered_in_either_order(first: str) -> None:
    program = (
        f"import sys, {first}\n"
        f"assert ('transformers' in sys.modules) == ({first!r} != 'tbt_compile')\n"
        "import tbt_compile, transformers.modeling_utils\n"
        "from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING\n"
        "assert AUTO_QUANTIZER_MAPPING['tbt'].__name__ == 'TbtHfQuantizer'\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_untied_head_stays_quantized_when_the_vocabulary_is_resized(tmp_path: Path) -> None:
    model = tbt_compile.prepare(FAMILIES["llama"](layers=1, tie_word_embeddings=False), "2-2-8")
    size = model.config.vocab_size + 8
    tbt_compile.set_scales(model, **batch(model))
    copied = copy.deepcopy(model)
    for one, mean in ((model, True), (copied, False)):
        one.resize_token_embeddings(size, mean_resizing=mean)
        assert is_prepared(one.lm_head) and one.lm_head.weight.shape[0] == one.lm_head.out_features == size
        assert one.lm_head.weight is dict(one.named_parameters())["lm_head.weight"]
        inputs = {**batch(one), "input_ids": torch.arange(size - 8, size)[None]}
        inputs = {"input_ids": inputs["input_ids"]}
        expected = one.eval()(**inputs).logits
        one.save_pretrained(tmp_path / "resized")
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "resized").eval()
        assert torch.equal(again(**inputs).logits, expected)
    with pytest.raises(PlanError, match="is frozen: resize the prepared model"):
        tbt_compile.freeze(model).module.resize_token_embeddings(size)


def test_a_folder_that_save_pretrained_wrote_over_a_frozen_model(tmp_path: Path) -> None:
    model = prepared("bart", tmp_path / "float")
    frozen = tbt_compile.freeze(model)
    frozen.save(tmp_path / "saved")
    expected = frozen.generate(**options(model))
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "saved")
    loaded.save_pretrained(tmp_path / "saved")
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(tbt_compile.freeze(again).generate(**options(model)), expected)
    with pytest.raises(FormatError, match=r"save_pretrained of transformers wrote model\.safetensors over"):
        tbt_compile.load(tmp_path / "saved")
    frozen.module.save_pretrained(tmp_path / "other")
    with pytest.raises(FormatError, match="is not a model folder|holds files"):
        frozen.save(tmp_path / "other")
    assert torch.equal(
        tbt_compile.freeze(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "other")).generate(
            **options(model)
        ),
        expected,
    )


def test_the_model_without_its_head_is_refused_by_name(tmp_path: Path) -> None:
    frozen = tbt_compile.freeze(prepared("llama", tmp_path / "float"))
    frozen.save(tmp_path / "saved")
    with pytest.raises(FormatError, match="those of a LlamaForCausalLM, and LlamaModel has no"):
        AutoModel.from_pretrained(tmp_path / "saved")


def test_a_frozen_model_is_returned_by_freeze(tmp_path: Path) -> None:
    frozen = tbt_compile.freeze(prepared("llama", tmp_path / "float"))
    assert tbt_compile.freeze(frozen) is frozen
