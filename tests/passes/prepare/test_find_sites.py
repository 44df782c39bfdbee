"""Site finding: what is a site, what is not, and whose it is."""

from __future__ import annotations

import math

import pytest
import torch
from models import FAMILIES, MLP, AttentionBlock, Classifier
from torch import Tensor, nn

from tbt_compile.passes.prepare.capture import Capture
from tbt_compile.passes.prepare.find_sites import FindSites
from tbt_compile.passes.prepare.sites import FoundSite, SiteKind
from tbt_compile.preparation import make_context

_FIRST_PROJECTION = (".q_proj", ".q", ".c_attn")  # what each family calls it
X, WEIGHT = torch.randn(2, 5, 16), torch.randn(8, 16)


def sites_of(model: nn.Module, *args: Tensor) -> dict[tuple[str, str], FoundSite]:
    context = make_context(model.eval(), None, args)
    for step in (Capture(), FindSites()):
        step.apply(context)
    return {(site.kind.value, site.fqn): site for site in context.sites}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_linear_and_every_attention_of_a_family_is_found(family: str) -> None:
    model = FAMILIES[family]()
    context = make_context(model)
    Capture().apply(context)
    FindSites().apply(context)
    sites = context.sites
    kinds = (SiteKind.LINEAR, SiteKind.OUTPUT_PROJECTION)
    linear = {site.fqn for site in sites if site.kind in kinds}
    expected = {
        name for name, m in model.named_modules() if isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D"
    }
    assert linear == expected
    attention = {site.fqn for site in sites if site.kind is SiteKind.ATTENTION}
    cores = {name.rpartition(".")[0] for name in expected if name.endswith(_FIRST_PROJECTION)}
    assert attention == cores
    assert not [site for site in sites if site.obstacle]
    (projection,) = [site.fqn for site in sites if site.kind is SiteKind.OUTPUT_PROJECTION]
    assert projection == "lm_head"
    tokens = [site.fqn for site in sites if site.kind is SiteKind.EMBEDDING and site.keep is None]
    assert tokens
    assert all("position" not in name and "relative" not in name and "wpe" not in name for name in tokens)


def test_mlp() -> None:
    assert list(sites_of(MLP(), torch.randn(3, 8))) == [("linear", "first"), ("linear", "second")]


def test_attention_block() -> None:
    sites = sites_of(Classifier(), X)
    site = sites["attention", "attention"]
    assert list(site.calls[0].operands) == ["query", "key", "probabilities", "value"]
    assert site.obstacle is None


def test_a_module_called_twice_is_one_site() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = AttentionBlock()

        def forward(self, x: Tensor) -> Tensor:
            return self.block(self.block(x))

    sites = sites_of(Twice(), X)
    assert len(sites) == 3
    assert all(len(site.calls) == 2 for site in sites.values())


def test_softmax_and_dropout_as_child_modules_belong_to_the_attention() -> None:
    class Children(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.softmax, self.dropout = nn.Softmax(-1), nn.Dropout(0.1)
            self.inner = AttentionBlock()

        def forward(self, x: Tensor) -> Tensor:
            weights = self.dropout(self.softmax(torch.bmm(x, x.permute(0, 2, 1)) / math.sqrt(16)))
            return torch.bmm(weights, x)

    assert list(sites_of(Children(), X)) == [("attention", "")]


def test_a_softmax_at_the_output_is_no_attention() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x).softmax(-1)

    assert list(sites_of(Head(), X)) == [("linear", "linear")]


class _Embeddings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(10, 16), nn.Embedding(8, 16)
        self.counted, self.buffered = nn.Embedding(8, 16), nn.Embedding(8, 16)
        self.register_buffer("order", torch.arange(5))
        self.head = nn.Linear(16, 10, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: Tensor, position_ids: Tensor) -> Tensor:
        x = self.tokens(ids[:, :5]) + self.positions(position_ids)
        x = x + self.counted(torch.arange(5)) + self.buffered(self.order)
        return self.head(x)


def test_only_embeddings_of_input_ids_are_token_embeddings() -> None:
    ids = torch.randint(0, 8, (2, 5))
    sites = sites_of(_Embeddings(), ids, ids.clone())
    assert sites["embedding", "tokens"].keep is None
    for name in ("positions", "counted", "buffered"):
        assert sites["embedding", name].keep.startswith("position embeddings stay fp32")
    assert ("output_projection", "head") in sites
