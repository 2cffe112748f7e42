"""Is this event about the same item, or the same author, as the target? Frozen codes let attention tell exactly.

Attention over learned item embeddings alone hardly learns to recognise equality. So every item and author has a frozen
code of random signs, computed from its id: two equal ids have dot product 1, two others about 0 +- 1/sqrt(C).
"""

import torch
from torch import Tensor, nn

from contracts.config import ModelConfig
from contracts.schemas import UNKNOWN
from model.hashing import mix64

# What an equal id adds to an attention score before anything is learned, head by head: a gentle head reads how often
# the target's item or author occurs in the window, a sharp one whether it occurs at all, and what happened then.
INITIAL_SCALES = (2.0, 8.0)


def sign_code(ids: Tensor, width: int) -> Tensor:
    """Ids [...] int64 -> [..., width] float32, entries +-1/sqrt(width); zeros for an unknown id. At most 64 wide."""
    bits = mix64(ids)[..., None] >> torch.arange(width, device=ids.device)
    signs = ((bits & 1) * 2 - 1) * (ids != UNKNOWN)[..., None]
    return torch.mul(signs, width**-0.5)


def identity_codes(fields: dict[str, Tensor], width: int) -> Tensor:
    """Codes of packed events or targets: [E, 2, width], item then author."""
    return torch.stack([sign_code(fields["item_id"], width), sign_code(fields["author_id"], width)], dim=1)


class IdentityMatch(nn.Module):
    """Appends codes to queries, keys and values: the first half of the heads matches items, the rest authors.

    Each layer and head has a learned scale, so that scores become q k / sqrt(Dh) + scale * code_t code_x. Reading the
    values' codes back with the target's own gives the attention weight that fell on equal ids.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        half = (config.heads + 1) // 2
        heads = torch.arange(config.heads)
        start = torch.tensor(INITIAL_SCALES)[(heads % half) % len(INITIAL_SCALES)]
        self.scale = nn.Parameter(start.repeat(config.layers, 1))
        self.register_buffer("which", (heads >= half).long(), persistent=False)
        self.which: Tensor

    def extend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, target: Tensor, history: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """q [T, N, Dh], k and v [H, N, Dh], codes [T, 2, C] and [H, 2, C] -> the same, each Dh + C wide.

        Attention divides every score by sqrt(Dh + C); queries are scaled up so that each part keeps its own unit.
        """
        width = q.shape[-1] + target.shape[-1]
        wanted = target[:, self.which] * (self.scale[layer] * width**0.5)[:, None]
        q = torch.cat([q * (width / q.shape[-1]) ** 0.5, wanted.to(q.dtype)], dim=-1)
        codes = history[:, self.which].to(k.dtype)
        return q, torch.cat([k, codes], dim=-1), torch.cat([v, codes], dim=-1)

    def read(self, out: Tensor, target: Tensor) -> Tensor:
        """Attention output [T, N, Dh + C], codes [T, 2, C] -> [T, N Dh + N]: values, then weights on matches."""
        code_width = target.shape[-1]
        values, codes = out[..., :-code_width], out[..., -code_width:]
        matched = (codes * target[:, self.which].to(codes.dtype)).sum(dim=-1)
        return torch.cat([values.flatten(1), matched], dim=-1)
