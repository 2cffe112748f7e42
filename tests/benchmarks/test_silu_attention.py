"""SiLU attention is its formula; the fused kernels compute what float64 does, and give the same bits twice.

The kernels run on a CUDA device in bf16. Where there is none, they run in Triton's interpreter in float32 if Triton is
installed and TRITON_INTERPRET=1 is set; elsewhere their tests are skipped.
"""

import os

import pytest
import torch
from torch import Tensor

from benchmarks.extrapolation.silu_attention import plain, silu_attention
from longreel.model.kernels import has_triton

ON_CUDA = torch.cuda.is_available()
INTERPRETED = not ON_CUDA and os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cuda" if ON_CUDA else "cpu"
TYPES = [(torch.bfloat16, 0.02), (torch.float32, 1e-5)] if ON_CUDA else [(torch.float32, 1e-5)]
needs_kernels = pytest.mark.skipif(
    not has_triton() or not (ON_CUDA or INTERPRETED), reason="needs Triton, and CUDA or TRITON_INTERPRET=1"
)
LENGTHS = {
    "jagged": [5, 0, 130, 1, 67],
    "one event": [1],
    "whole blocks": [64, 32],
    "empty around": [0, 0, 70, 0],
    "no event": [0, 0],
}
if ON_CUDA:
    LENGTHS |= {"long": [1_000, 3, 0, 257, 128], "many": [7] * 9_000}  # more programs than a grid's second axis takes


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def starts(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths]).cumsum(0).to(DEVICE)


def with_gradients(attend: str, leaves: list[Tensor], given: Tensor, lengths: list[int]) -> list[Tensor]:
    """out and the gradients of q, k and v."""
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    if attend == "fused":
        out = silu_attention(*leaves, starts(lengths), max(lengths))
    else:
        out = plain(*leaves, starts(lengths))
    out.backward(given.to(out.dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves)]  # type: ignore[list-item]


def agree(ours: list[Tensor], exact: list[Tensor], tolerance: float) -> None:
    for one, reference in zip(ours, exact, strict=True):
        assert one.isfinite().all()
        assert (one.double() - reference).norm() <= tolerance * reference.norm()


def test_plain_version_is_the_formula() -> None:
    lengths = [4, 0, 6, 1]
    q, k, v = draw(3, 2, 11, 8).double()
    expected, begin = torch.zeros_like(q), 0
    for length in lengths:
        for head in range(2):
            for i in range(length):
                for j in range(i + 1):
                    score = (q[head, begin + i] * k[head, begin + j]).sum() / 8**0.5
                    expected[head, begin + i] += score / (1 + torch.exp(-score)) * v[head, begin + j] / (i + 1)
        begin += length
    torch.testing.assert_close(plain(q, k, v, starts(lengths)), expected)
    torch.testing.assert_close(silu_attention(q, k, v, starts(lengths), 6), expected)


@needs_kernels
@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
@pytest.mark.parametrize("width", [4, 8, 16, 32, 64] if ON_CUDA else [8, 16, 32])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_kernels_equal_the_plain_version(lengths: list[int], width: int, dtype: torch.dtype, tolerance: float) -> None:
    leaves = [draw(2, sum(lengths), width, seed=i).to(dtype) for i in range(3)]
    given = draw(2, sum(lengths), width, seed=3).to(dtype)
    exact = with_gradients("plain", [leaf.double() for leaf in leaves], given, lengths)
    ours = with_gradients("fused", leaves, given, lengths)
    agree(ours, exact, tolerance)
    assert all(one.dtype == dtype for one in ours)
    again = with_gradients("fused", leaves, given, lengths)
    assert all(torch.equal(one, other) for one, other in zip(ours, again, strict=True))


@needs_kernels
@pytest.mark.parametrize(("dtype", "tolerance"), TYPES)
def test_kernels_take_slices_of_one_projection(dtype: torch.dtype, tolerance: float) -> None:
    """As HSTU gives them: events first, heads side by side, and the gradient likewise."""
    lengths = [70, 3]
    leaves = [x.unflatten(-1, (2, 16)).movedim(1, 0) for x in draw(73, 3 * 32).to(dtype).chunk(3, dim=-1)]
    given = draw(73, 2, 16, seed=1).to(dtype).movedim(1, 0)
    assert not any(x.is_contiguous() for x in (*leaves, given))
    exact = with_gradients("plain", [leaf.double() for leaf in leaves], given, lengths)
    agree(with_gradients("fused", leaves, given, lengths), exact, tolerance)


@needs_kernels
def test_large_scores_neither_overflow_nor_lose_their_sign() -> None:
    dtype, tolerance = TYPES[0]
    leaves = [(scale * draw(1, 150, 16, seed=i)).to(dtype) for i, scale in enumerate((60, 60, 1))]
    given = draw(1, 150, 16, seed=3).to(dtype)
    exact = with_gradients("plain", [leaf.double() for leaf in leaves], given, [150])
    agree(with_gradients("fused", leaves, given, [150]), exact, tolerance)


def test_other_widths_and_mixed_types_are_refused() -> None:
    x = draw(1, 4, 24)
    with pytest.raises(ValueError, match="power of two up to 64"):
        silu_attention(x, x, x, starts([4]), 4)
    y = draw(1, 4, 16)
    with pytest.raises(ValueError, match="one type"):
        silu_attention(y, y, y.double(), starts([4]), 4)
