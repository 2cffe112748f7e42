"""Exactness of every backend: against float64 on this device, in values and gradients, and the same bits twice."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.stca.cases import Case

TOLERANCE = 0.02  # of a norm: bf16 operands through four layers


@dataclass(frozen=True)
class Checked:
    """One comparison."""

    name: str
    error: float  # ||ours - exact|| / ||exact||, the worst over outputs and gradients
    worst: str  # which of them
    plain_error: float  # the same for the padded backend in bf16
    repeats: bool  # a second run gave the same bits

    @property
    def ok(self) -> bool:
        """Within tolerance, or no further off than plain bf16 is; finite; deterministic."""
        return self.repeats and (self.error <= TOLERANCE or self.error <= 1.5 * self.plain_error)


def cases() -> Iterator[tuple[str, Case, str]]:
    """(name, case, backend): jagged, empty, single, odd and long histories; narrow and wide heads; both forms."""
    jagged = ([5, 0, 300, 1, 129, 1_000, 64, 77], [3, 1, 16, 2, 16, 1, 9, 16])
    for width, heads in ((256, 8), (256, 4), (128, 8), (1_024, 16)):
        for backend in ("varlen", "absorbed"):
            for id_match in (False, True):
                yield (
                    f"d={width} h={heads} {backend}{' ids' if id_match else ''}",
                    Case(*jagged, width, heads, id_match=id_match),
                    backend,
                )
    yield "m=1", Case([700, 0, 31], [1, 1, 1], 256, 8, id_match=True), "auto"
    yield "L=10,240 m=16", Case([10_240, 513], [16, 3], 256, 8, id_match=True), "absorbed"
    yield "L=10,240 m=128", Case([10_240, 513], [128, 3], 256, 8, id_match=True), "varlen"
    yield "L=10,240 d=1024", Case([10_240, 513], [16, 3], 1_024, 16, id_match=True), "absorbed"


def run(case: Case, backend: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """z and the gradients of every input and parameter; bf16 means autocast over float32 masters."""
    model, inputs = case.model(), case.inputs(True, torch.float32)
    if dtype == torch.float64:
        model = model.double()
        inputs |= {name: inputs[name].detach().double().requires_grad_() for name in ("target", "history")}
    with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.bfloat16):
        z = model(**inputs, backend=backend)
    weight = torch.randn(z.shape, generator=torch.Generator().manual_seed(9)).to(z)
    (z * weight).sum().backward()
    tensors = {"z": z.detach(), "dx_t": inputs["target"].grad, "dX": inputs["history"].grad}
    return tensors | {name: parameter.grad for name, parameter in model.named_parameters()}


def _worst(ours: dict[str, Tensor], exact: dict[str, Tensor]) -> tuple[float, str]:
    errors = {}
    for name, reference in exact.items():
        gap = (ours[name].double() - reference).norm() / reference.norm().clamp(min=1e-6)
        errors[name] = float(gap) if bool(ours[name].isfinite().all()) else float("inf")
    name = max(errors, key=lambda key: errors[key])
    return errors[name], name


def check(name: str, case: Case, backend: str) -> Checked:
    """Compare one case."""
    exact = run(case, "reference", torch.float64)
    ours, again = (run(case, backend, torch.bfloat16) for _ in range(2))
    plain = run(case, "padded", torch.bfloat16)
    error, worst = _worst(ours, exact)
    same = all(torch.equal(ours[key], again[key]) for key in ours)
    return Checked(name, error, worst, _worst(plain, exact)[0], same)
