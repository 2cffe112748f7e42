"""Is this event about the same item, or the same author, as the target? Frozen codes let attention tell exactly.

Attention over learned item embeddings alone hardly learns to recognise equality. So every item and author has a frozen
code of random signs, computed from its id: two equal ids have dot product 1, two others about 0 +- 1/sqrt(C).
"""

import torch
from torch import Tensor, nn

from contracts.config import ModelConfig
from contracts.schemas import UNKNOWN
from model.hashing import mix64

INITIAL_SCALE = 8.0  # what an equal id adds to an attention score before anything is learned


def sign_code(ids: Tensor, width: int) -> Tensor:
    """Ids [...] int64 -> [..., width] float32, entries +-1/sqrt(width); zeros for an unknown id. At most 64 wide."""
    bits = mix64(ids)[..., None] >> torch.arange(width, device=ids.device)
    signs = ((bits & 1) * 2 - 1) * (ids != UNKNOWN)[..., None]
    return torch.mul(signs, width**-0.5)


def identity_codes(fields: dict[str, Tensor], width: int) -> Tensor:
    """Codes of packed events or targets: [E, 2, width], item then author."""
    return torch.stack([sign_code(fields["item_id"], width), sign_code(fields["author_id"], width)], dim=1)


class IdentityMatch(nn.Module):
    """Appends codes to queries and keys: the first half of the heads matches items, the rest authors.

    Each layer and head has a learned scale, so that scores become q k / sqrt(Dh) + scale * code_t code_x.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((config.layers, config.heads), INITIAL_SCALE))
        heads = torch.arange(config.heads)
        self.register_buffer("which", (heads >= (config.heads + 1) // 2).long(), persistent=False)
        self.which: Tensor

    def forward(self, layer: int, q: Tensor, k: Tensor, target: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        """q [T, N, Dh], k [H, N, Dh], codes [T, 2, C] and [H, 2, C] -> [T, N, Dh + C], [H, N, Dh + C].

        Attention divides every score by sqrt(Dh + C); queries are scaled up so that each part keeps its own unit.
        """
        width = q.shape[-1] + target.shape[-1]
        scale = (self.scale[layer] * width**0.5)[:, None]
        q = q * (width / q.shape[-1]) ** 0.5
        coded = target[:, self.which] * scale
        return torch.cat([q, coded.to(q.dtype)], -1), torch.cat([k, history[:, self.which].to(k.dtype)], -1)
