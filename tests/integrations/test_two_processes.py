"""Two processes train a prepared model, sharded or copied, as one does; what they save loads in one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.utils import merge_fsdp_weights
from integrations import two_processes
from models import generate
from safetensors.torch import load_file
from torch import nn
from torch.testing import assert_close
from transformers import LlamaForCausalLM

import tbt_compile
from tbt_compile.errors import PlanError
from tbt_compile.modules import is_prepared

LAUNCHERS = {
    "fsdp": (
        *("-m", "accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2", "--num_processes", "2"),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
    ),
    "ddp": ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
}


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")  # accelerate's, of tensors that are shards
@pytest.mark.parametrize(("embedding", "engine"), [("tied", "fsdp"), ("untied", "ddp")])
def test_two_processes_train_as_one(embedding: str, engine: str, tmp_path: Path) -> None:
    command = [
        sys.executable,
        *LAUNCHERS[engine],
        two_processes.__file__,
        embedding,
        engine,
        str(tmp_path / "two"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    losses = two_processes.train(embedding, "none", tmp_path / "one")
    assert torch.load(tmp_path / "two" / "losses.pt") == pytest.approx(losses, rel=2e-6)
    one, two = (LlamaForCausalLM.from_pretrained(tmp_path / name) for name in ("one", "two"))
    assert is_prepared(two)
    for name, tensor in one.state_dict().items():
        assert_close(two.state_dict()[name], tensor, rtol=0.0, atol=1e-4, msg=name)
    assert torch.equal(generate(two), generate(one))
    assert torch.equal(generate(tbt_compile.freeze(two).module), generate(two))
    if engine == "fsdp":
        merge_fsdp_weights(
            str(tmp_path / "two" / "shards" / "pytorch_model_fsdp_0"), str(tmp_path / "merged")
        )
        merged = load_file(tmp_path / "merged" / "model.safetensors")
        for name, tensor in two.state_dict().items():
            assert name not in merged or torch.equal(merged[name], tensor), name
        assert {name for name, _ in two.named_parameters()} <= merged.keys()


def test_scales_are_set_in_a_model_as_it_is() -> None:
    x = torch.randn(3, 8)
    with pytest.raises(PlanError, match="has no quantizers: call tbt_compile.prepare"):
        tbt_compile.set_scales(nn.Linear(8, 4), x)
    model = tbt_compile.prepare(nn.Sequential(nn.Linear(8, 4)), "2-2-2", x)
    tbt_compile.set_scales(nn.DataParallel(model), x)
    assert model[0].input_quantizer.initialized
