"""Stable digests of JSON-able values."""

import hashlib
import json
from typing import Any


def digest_of(value: Any) -> str:
    """A short stable digest of a JSON-able value: 16 hex digits of SHA-256."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
