"""Every backend reads the same from every history, in values and in gradients."""

import pytest
import torch
from torch import Tensor

from contracts.errors import LongreelError
from model.attention import cross_attention

RAGGED = {
    "ragged": ([3, 1, 4, 2, 1], [5, 0, 17, 1, 33]),
    "all empty": ([2, 1], [0, 0]),
    "empty ends": ([1, 2, 3], [0, 9, 0]),
    "one of everything": ([1], [1]),
    "no targets in the middle": ([2, 0, 3], [4, 7, 2]),
    "sorted, many": ([1, 2, 3, 1, 2, 1, 7, 1], [0, 0, 1, 2, 2, 3, 900, 1_000]),
    "wildly uneven": ([2, 1, 2], [5_000, 1, 3]),
}


def offsets(counts: list[int]) -> Tensor:
    return torch.tensor([0, *counts]).cumsum(0)


def run(
    backend: str,
    counts: tuple[list[int], list[int]],
    dtype: torch.dtype,
    device: str = "cpu",
    widths: tuple[int, int] = (8, 4),
) -> list[Tensor]:
    """Output and the gradients of q, k and v."""
    generator = torch.Generator().manual_seed(1)
    targets, events = counts
    shapes = [(sum(targets), 2, widths[0]), (sum(events), 2, widths[0]), (sum(events), 2, widths[1])]
    q, k, v = (torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes)
    out = cross_attention(q, k, v, offsets(targets).to(device), offsets(events).to(device), backend)
    weight = torch.randn(out.shape, generator=generator).to(device, dtype)
    (out * weight).sum().backward()
    return [out.detach(), q.grad, k.grad, v.grad]


def by_hand(counts: tuple[list[int], list[int]]) -> Tensor:
    """Attention written as sums over single events, in float64."""
    generator = torch.Generator().manual_seed(1)
    targets, events = counts
    shapes = [(sum(targets), 2, 8), (sum(events), 2, 8), (sum(events), 2, 4)]
    q, k, v = (torch.randn(shape, generator=generator).double() for shape in shapes)
    out = torch.zeros(sum(targets), 2, 4, dtype=torch.float64)
    t0 = h0 = 0
    for m, length in zip(targets, events, strict=True):
        for t in range(t0, t0 + m):
            for head in range(2):
                scores = [float(q[t, head] @ k[h, head]) / 8**0.5 for h in range(h0, h0 + length)]
                weights = torch.softmax(torch.tensor(scores, dtype=torch.float64), 0)
                for h, weight in zip(range(h0, h0 + length), weights, strict=True):
                    out[t, head] += weight * v[h, head]
        t0, h0 = t0 + m, h0 + length
    return out


@pytest.mark.parametrize("counts", RAGGED.values(), ids=RAGGED)
def test_padded_equals_segments_in_values_and_gradients(counts: tuple[list[int], list[int]]) -> None:
    for one, other in zip(run("padded", counts, torch.float64), run("segments", counts, torch.float64), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["ragged", "empty ends", "no targets in the middle"])
def test_segments_equal_sums_over_single_events(name: str) -> None:
    torch.testing.assert_close(run("segments", RAGGED[name], torch.float64)[0], by_hand(RAGGED[name]))


@pytest.mark.parametrize("backend", ["segments", "padded"])
def test_empty_history_reads_exactly_zero_and_has_finite_gradients(backend: str) -> None:
    out, *gradients = run(backend, RAGGED["ragged"], torch.float32)
    assert (out[3] == 0).all()  # the only target of the second request
    assert (out[4] != 0).any()
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert (gradients[0][3] == 0).all()


def test_unknown_backend_and_varlen_off_cuda_are_refused() -> None:
    with pytest.raises(LongreelError, match="expected one of auto"):
        run("flash", RAGGED["ragged"], torch.float32)
    with pytest.raises(LongreelError, match="half precision on CUDA"):
        run("varlen", RAGGED["ragged"], torch.float32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the varlen backend needs CUDA")
@pytest.mark.parametrize("widths", [(32, 32), (64, 32)])
@pytest.mark.parametrize("counts", RAGGED.values(), ids=RAGGED)
def test_varlen_equals_a_float64_reference_to_bf16_rounding(
    counts: tuple[list[int], list[int]], widths: tuple[int, int]
) -> None:
    exact = run("segments", counts, torch.float64, "cuda", widths)
    packed = run("varlen", counts, torch.bfloat16, "cuda", widths)
    padded = run("padded", counts, torch.bfloat16, "cuda", widths)
    for reference, ours, other in zip(exact, packed, padded, strict=True):
        assert ours.isfinite().all()
        scale = reference.norm().clamp(min=1e-3)
        assert (ours.double() - reference).norm() <= 0.02 * scale
        assert (ours.double() - reference).norm() <= 2 * (other.double() - reference).norm() + 1e-3 * scale
