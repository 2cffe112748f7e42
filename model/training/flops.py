"""FLOPs of a training step, counted from its sizes, and peak FLOP/s of devices.

Multiplications and additions of the algorithm in docs/method.md, K and V written once per request; what an
implementation recomputes or skips does not count. Look-ups, norms and activations are left out.
"""

import torch

from longreel.contracts.config import ModelConfig
from longreel.contracts.log_schema import Field, LogSchema
from longreel.model.nn.match_counts import num_numbers

BACKWARD = 3  # training is three times the forward pass: a product has two gradients

# Dense bf16 peak in FLOP/s, by what the device's name contains; the makers' data sheets, without sparsity.
PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "V100": 125e12,
}


def stca_flops(config: ModelConfig, *, events: int, targets: int, pairs: int) -> float:
    """FLOPs of the stack's forward pass: the events' encoders, K and V, the targets' queries and what they collect."""
    d, r, m = config.width, config.expansion, config.layers
    glu = 6 * r * d * d  # SwiGLU: d -> 2 r d and r d -> d
    fused = sum(i + 1 for i in range(1, m))  # vectors that W_C of all layers take
    queries = (m + 1) * glu + m * 4 * d * d + 2 * (fused + m + 1) * d * d
    return float(events * m * (glu + 4 * d * d) + targets * queries + pairs * m * 4 * d)


def forward_flops(
    config: ModelConfig,
    log_schema: LogSchema,
    *,
    requests: int,
    events: int,
    targets: int,
    pairs: int,
    tasks: int,
) -> float:
    """FLOPs of one forward pass.

    Args:
        pairs: (target, event) pairs that attention scores: the sum over requests of targets times events.
    """
    d, r, s = config.width, config.expansion, config.mixer_tokens
    fields, user_fields = log_schema.of_place("item", "request"), log_schema.user_fields  # a number costs no FLOPs
    outcomes = log_schema.of_place("event")
    event = 2 * d * (_fused_width(config, (*fields, *outcomes)) + len(log_schema.actions))
    user = 2 * d * sum(field.size for field in user_fields if field.kind == "vector")
    inputs = 3 + config.match_counts
    mixer = 2 * inputs * d * s * d + config.mixer_layers * s * 4 * r * d * d
    counts = 2 * r * d * (num_numbers(log_schema) + d) if config.match_counts else 0
    target = 2 * d * _fused_width(config, fields) + mixer + counts + 2 * d * tasks
    stack = stca_flops(config, events=events, targets=targets, pairs=pairs)
    return float(events * event + targets * target + requests * user) + stack


def _fused_width(config: ModelConfig, fields: tuple[Field, ...]) -> int:
    """Components that ids, means of multis, and vectors of a token have together."""
    widths = {"id": config.embedding_width, "multi": config.embedding_width}
    return sum(field.size if field.kind == "vector" else widths.get(field.kind, 0) for field in fields)


def training_flops(config: ModelConfig, log_schema: LogSchema, **counts: int) -> float:
    """FLOPs of one training step; see `forward_flops`."""
    return BACKWARD * forward_flops(config, log_schema, **counts)


def peak_flops(device: torch.device) -> float | None:
    """Peak of a device in bf16; None for a CPU and for devices that are not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAKS.items() if part in name), None)
