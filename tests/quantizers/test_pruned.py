"""Movement pruning in blocks: which blocks are kept, and how scores learn."""

import torch

from tbt_compile.quantizers.pruned import BlockPruner


def pruner() -> BlockPruner:
    """2 x 3 blocks of 2 x 2 for a weight [3, 5], of which two are kept: those with scores 5 and 4."""
    made = BlockPruner(3, 5, block=2)
    with torch.no_grad():
        made.scores.copy_(torch.tensor([[0.0, 5.0, 1.0], [4.0, 2.0, 3.0]]))
    made.density.fill_(2 / 6)
    return made


MASK = torch.tensor([[0.0, 0, 1, 1, 0], [0, 0, 1, 1, 0], [1, 1, 0, 0, 0]])


def test_the_blocks_with_the_highest_scores_are_kept() -> None:
    weight = torch.arange(1.0, 16.0).view(3, 5)
    value, scale = pruner()(weight)
    assert scale is None
    assert torch.equal(value, weight * MASK)


def test_gradients() -> None:
    weight = torch.arange(1.0, 16.0).view(3, 5).requires_grad_()
    upstream = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    made = pruner()
    made(weight).value.backward(upstream)
    assert torch.equal(weight.grad, upstream * MASK)
    for row in range(2):
        for column in range(3):
            part = slice(2 * row, 2 * row + 2), slice(2 * column, 2 * column + 2)
            expected = (upstream * weight.detach())[part].sum()
            torch.testing.assert_close(made.scores.grad[row, column], expected)


def test_everything_is_kept_at_first_and_one_block_at_least() -> None:
    made = BlockPruner(4, 4, block=2)
    weight = torch.randn(4, 4)
    assert torch.equal(made(weight).value, weight)
    made.density.fill_(0.01)
    assert made.kept == 1
