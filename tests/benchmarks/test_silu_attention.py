"""HSTU's attention is its formula; fused, it gives the same, gradients too, and the same bits twice.

The fused one runs on a CUDA device in bf16, or in Triton's interpreter with TRITON_INTERPRET=1, in float32.
"""

import os

import pytest
import torch
from torch import Tensor

from benchmarks.extrapolation.silu_attention import plain, silu_attention
from model.kernels import has_triton

ON_CUDA = torch.cuda.is_available()
INTERPRETED = not ON_CUDA and os.environ.get("TRITON_INTERPRET") == "1"
DEVICE, DTYPE, TOLERANCE = ("cuda", torch.bfloat16, 0.02) if ON_CUDA else ("cpu", torch.float32, 1e-5)
LENGTHS = {"ragged": [5, 0, 130, 1], "several blocks": [300, 64, 128], "nobody": [0, 0]}


def drawn(lengths: list[int], heads: int, width: int) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = [2 * torch.randn(sum(lengths), heads, width, generator=generator) for _ in range(4)]
    return drawn, torch.tensor([0, *lengths]).cumsum(0)


def test_the_plain_one_is_the_formula() -> None:
    (q, k, v, _), offsets = drawn([4, 0, 3], 2, 5)
    found = plain(q.double(), k.double(), v.double(), offsets)
    for start, stop in ((0, 4), (4, 7)):
        for i in range(start, stop):
            for h in range(2):
                total = torch.zeros(5, dtype=torch.float64)
                for j in range(start, i + 1):
                    s = float(q[i, h].double() @ k[j, h].double()) / 5**0.5
                    total += s / (1 + torch.e**-s) * v[j, h]
                torch.testing.assert_close(found[i, h], total / (i - start + 1))


@pytest.mark.skipif(
    not has_triton() or not (ON_CUDA or INTERPRETED), reason="needs Triton, and CUDA or TRITON_INTERPRET=1"
)
@pytest.mark.parametrize("width", [8, 16, 32])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_the_fused_one_is_the_plain_one_with_its_gradients(lengths: list[int], width: int) -> None:
    values, offsets = drawn(lengths, 3, width)
    values = [each.to(DEVICE, DTYPE) for each in values]
    offsets = offsets.to(DEVICE)

    def run(fused: bool, *inputs: Tensor) -> list[Tensor]:
        q, k, v = (each.detach().requires_grad_() for each in inputs[:3])
        apart = [torch.stack([each, each], -1)[..., 0] for each in (q, k, v)]  # not contiguous
        out = silu_attention(*apart, offsets, max(lengths)) if fused else plain(*apart, offsets)
        return [out.detach(), *torch.autograd.grad(out, (q, k, v), inputs[3])]

    ours, again = run(True, *values), run(True, *values)
    exact = run(False, *(each.double() for each in values))
    for one, same, reference in zip(ours, again, exact, strict=True):
        assert one.isfinite().all()
        assert torch.equal(one, same)
        assert (one.double() - reference).norm() <= TOLERANCE * reference.norm()
