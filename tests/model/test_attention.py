"""Every attention backend gives the same values and gradients."""

import logging

import pytest
import torch
from torch import Tensor

from longreel.contracts.errors import LongreelError
from longreel.model.nn.attention import Requests, choose_form, choose_form_and_backend, cross_attention
from longreel.model.nn.attention_backends import ComparedIds, IdMatch

JAGGED = {
    "jagged": ([3, 1, 4, 2, 1], [5, 0, 17, 1, 33]),
    "all empty": ([2, 1], [0, 0]),
    "empty ends": ([1, 2, 3], [0, 9, 0]),
    "one of everything": ([1], [1]),
    "no targets in the middle": ([2, 0, 3], [4, 7, 2]),
    "sorted, many": ([1, 2, 3, 1, 2, 1, 7, 1], [0, 0, 1, 2, 2, 3, 900, 1_000]),
    "wildly uneven": ([2, 1, 2], [5_000, 1, 3]),
}
HEADS, HEAD_CHANNEL = 3, (0, 1, 0)


def offsets(counts: list[int]) -> Tensor:
    return torch.tensor([0, *counts]).cumsum(0)


def inputs(counts: tuple[list[int], list[int]], width: int, shared: bool, matched: bool) -> list[Tensor]:
    """q, kv, and with a match its scale, target ids and event ids; the same for every backend."""
    generator = torch.Generator().manual_seed(1)
    targets, events = sum(counts[0]), sum(counts[1])
    q = torch.randn(targets, HEADS, width, generator=generator)
    kv = torch.randn(events, *((1, 1) if shared else (2, HEADS)), width, generator=generator)
    if not matched:
        return [q, kv]
    ids = [torch.randint(0, 4, (n, 2), generator=generator) for n in (targets, events)]
    return [q, kv, 3 * torch.rand(HEADS, generator=generator), *ids]


def run(
    backend: str,
    counts: tuple[list[int], list[int]],
    dtype: torch.dtype,
    device: str = "cpu",
    width: int = 8,
    shared: bool = False,
    matched: bool = True,
) -> list[Tensor]:
    """Values, weight on equal ids, and the gradients of q, kv and scale."""
    q, kv, *rest = (x.to(device) for x in inputs(counts, width, shared, matched))
    leaves = [x.to(dtype).requires_grad_() for x in (q, kv)]
    match = None
    if matched:
        leaves.append(rest[0].to(torch.float64 if dtype == torch.float64 else torch.float32).requires_grad_())
        match = IdMatch(
            ComparedIds(rest[1], rest[2]), torch.tensor(HEAD_CHANNEL, dtype=torch.int32, device=device), leaves[2]
        )
    requests = Requests(*(offsets(count).to(device) for count in counts))
    out, match_weight = cross_attention(leaves[0], leaves[1], requests, match, backend=backend)
    generator = torch.Generator().manual_seed(2)
    loss = (out * torch.randn(out.shape, generator=generator).to(out)).sum()
    if match_weight is not None:
        loss = loss + (match_weight * torch.randn(match_weight.shape, generator=generator).to(match_weight)).sum()
    loss.backward()
    assert all(leaf.grad is not None for leaf in leaves)
    return [out.detach(), *([] if match_weight is None else [match_weight.detach()]), *(leaf.grad for leaf in leaves)]  # type: ignore


def by_hand(counts: tuple[list[int], list[int]], shared: bool, matched: bool) -> list[Tensor]:
    """Attention written as sums over single events, in float64."""
    q, kv, *rest = (x.double() for x in inputs(counts, 8, shared, matched))
    out, match_weight = torch.zeros_like(q), torch.zeros(q.shape[:2], dtype=torch.float64)
    t0 = h0 = 0
    for m, length in zip(*counts, strict=True):
        for t in range(t0, t0 + m):
            for head in range(HEADS):
                keys, values = (kv[h0 : h0 + length, part, 0 if shared else head] for part in (0, -1))
                equal = [
                    matched and rest[1][t, HEAD_CHANNEL[head]] == rest[2][h, HEAD_CHANNEL[head]]
                    for h in range(h0, h0 + length)
                ]
                scores = [float(q[t, head] @ key) / 8**0.5 for key in keys]
                scores = [
                    s + float(rest[0][head]) * bool(e) if matched else s for s, e in zip(scores, equal, strict=True)
                ]
                for weight, value, e in zip(
                    torch.tensor(scores, dtype=torch.float64).softmax(0), values, equal, strict=True
                ):
                    out[t, head] += weight * value
                    match_weight[t, head] += weight * bool(e)
        t0, h0 = t0 + m, h0 + length
    return [out, match_weight] if matched else [out]


@pytest.mark.parametrize("shared", [False, True], ids=["keys and values", "events are both"])
@pytest.mark.parametrize("matched", [False, True], ids=["", "matched"])
@pytest.mark.parametrize("counts", JAGGED.values(), ids=JAGGED)
def test_padded_equals_reference_in_values_and_gradients(
    counts: tuple[list[int], list[int]], matched: bool, shared: bool
) -> None:
    one, other = (
        run(backend, counts, torch.float64, shared=shared, matched=matched) for backend in ("padded", "reference")
    )
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("shared", [False, True], ids=["keys and values", "events are both"])
@pytest.mark.parametrize("matched", [False, True], ids=["", "matched"])
@pytest.mark.parametrize("name", ["jagged", "empty ends", "no targets in the middle"])
def test_reference_equals_sums_over_single_events(name: str, matched: bool, shared: bool) -> None:
    expected = by_hand(JAGGED[name], shared, matched)
    for ours, theirs in zip(run("reference", JAGGED[name], torch.float64, shared=shared, matched=matched), expected):  # noqa: B905
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("backend", ["reference", "padded"])
def test_empty_history_reads_exactly_zero_and_has_finite_gradients(backend: str) -> None:
    out, match_weight, *gradients = run(backend, JAGGED["jagged"], torch.float32)
    assert (out[3] == 0).all()  # the only target of the second request
    assert (match_weight[3] == 0).all()
    assert (out[4] != 0).any()
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert (gradients[0][3] == 0).all()


def test_unknown_backend_and_varlen_off_cuda_are_refused() -> None:
    with pytest.raises(LongreelError, match="expected one of auto"):
        run("flash", JAGGED["jagged"], torch.float32)
    with pytest.raises(LongreelError, match=r"expected half precision on CUDA, got torch\.bfloat16 on cpu"):
        run("varlen", JAGGED["jagged"], torch.bfloat16)
    with pytest.raises(LongreelError, match="expected one of auto"):
        choose_form_and_backend("flash", torch.zeros(3, 16), 1, 10, 2)


def test_form_follows_the_number_of_targets_and_the_width() -> None:
    for m in (1, 8, 16):
        assert choose_form(m, 2_048, 256, 8) == "absorbed"
    assert choose_form(128, 10_240, 256, 8) == "kv"
    assert choose_form(16, 8, 256, 8) == "kv"  # so few events that going into their space does not pay
    assert choose_form(16, 2_048, 1_024, 16) == "absorbed"
    assert choose_form(128, 2_048, 1_024, 16) == "kv"


def test_the_choice_is_overridable_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    x = torch.zeros(7, 48)
    with caplog.at_level(logging.INFO, "longreel.model.nn.attention"):
        for _ in range(3):
            assert choose_form_and_backend("auto", x, 16, 2_048, 3) == ("kv", "padded")
            assert choose_form_and_backend("absorbed", x, 16, 2_048, 3) == ("absorbed", "padded")
            assert choose_form_and_backend("reference", x, 16, 2_048, 3) == ("kv", "reference")
    assert len(caplog.messages) == 3


def test_absorbed_is_chosen_where_the_fused_kernel_can_take_events_but_not_heads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "longreel.model.nn.attention.varlen_obstacle", lambda x, dtype, width: "" if width in (16, 32) else "no"
    )
    assert choose_form_and_backend("auto", torch.zeros(7, 32), 10_000, 10_240, 2) == ("kv", "varlen")
    assert choose_form_and_backend("auto", torch.zeros(7, 48), 10_000, 10_240, 3) == ("kv", "varlen")
    for backend in ("auto", "varlen"):  # heads 8 wide
        assert choose_form_and_backend(backend, torch.zeros(7, 32), 10_000, 10_240, 4) == ("absorbed", "varlen")


CANCELLED = (
    1e-4  # with one event a query's gradient is 0: terms of about 10 cancel, and float32 keeps a millionth of them
)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the varlen backend needs CUDA")
@pytest.mark.parametrize("matched", [False, True], ids=["", "matched"])
@pytest.mark.parametrize(
    ("width", "shared"), [(16, False), (32, False), (64, False), (128, True), (256, True), (512, True)]
)
@pytest.mark.parametrize("counts", JAGGED.values(), ids=JAGGED)
def test_varlen_equals_a_float64_reference_to_bf16_rounding(
    counts: tuple[list[int], list[int]], width: int, shared: bool, matched: bool
) -> None:
    exact = run("reference", counts, torch.float64, "cuda", width, shared, matched)
    varlen = run("varlen", counts, torch.bfloat16, "cuda", width, shared, matched)
    padded = run("padded", counts, torch.bfloat16, "cuda", width, shared, matched)
    for expected, ours, other in zip(exact, varlen, padded, strict=True):
        assert ours.isfinite().all()
        scale = expected.norm().clamp(min=1e-3)
        ours_off, other_off = ((tensor.double() - expected).norm() for tensor in (ours, other))
        assert ours_off <= 0.02 * scale + CANCELLED
        assert ours_off <= 3 * other_off + 1e-3 * scale + CANCELLED
