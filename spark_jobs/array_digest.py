"""Content digest of array datasets (samples, history): two sums that depend on neither row order nor file layout.

For tables read back from files, as `row_digest` is for rows inside Spark. A row's hash is
multilinear: every value times an odd number of its column, and its place in the list times another, summed and mixed
per element, then per list group, then per row (mixing as in SplitMix64's finaliser, Steele, Lea and Flood 2014).
"""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from longreel.contracts.digests import digest_of
from longreel.contracts.jagged import Ints, list_values, offsets_of

Words = NDArray[np.uint64]


def _odd(name: str) -> np.uint64:
    """A fixed odd multiplier for a name."""
    return np.uint64(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") | 1)


PLACE, LENGTH, BYTES = _odd("#place"), _odd("#length"), _odd("#bytes")


def mix(values: Words) -> Words:
    """Every input bit moves about half of the output bits; in place."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values


def _sums(values: Words, offsets: Ints) -> Words:
    """Of each list, the sum of its values, modulo 2^64."""
    running = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values, out=running[1:])
    return np.asarray(running[offsets[1:]] - running[offsets[:-1]])


def _places(offsets: Ints) -> Words:
    """0, 1, 2 .. within each list."""
    return (np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))).view(np.uint64)


def _folded(words: Words, count: int) -> Words:
    """One word [count] for the elements that each event or target has of a multi or vector column."""
    if len(words) == count:
        return words
    elements = words.reshape(count, -1)
    return np.asarray(mix(elements + np.arange(elements.shape[1], dtype=np.uint64) * PLACE).sum(axis=1))


def _words(values: pa.Array) -> Words:
    """Integers, the bits of each float, or a hash of each string."""
    if pa.types.is_floating(values.type):
        return np.asarray(values.to_numpy(zero_copy_only=False)).view(np.uint32).astype(np.uint64)
    if not pa.types.is_string(values.type):
        return np.asarray(values.to_numpy(zero_copy_only=False)).astype(np.int64).view(np.uint64)
    buffers, lengths = values.buffers(), np.asarray(pc.binary_length(values), np.int64)
    start = np.frombuffer(buffers[1], np.int32)[values.offset] if len(values) else 0
    offsets = offsets_of(lengths)
    text = np.frombuffer(buffers[2] or b"", np.uint8)[start : start + offsets[-1]].astype(np.uint64)
    return mix(_sums(mix(text * BYTES + _places(offsets) * PLACE), offsets) + lengths.view(np.uint64) * LENGTH)


def row_hashes(table: pa.Table) -> Words:
    """64 bits of each row [rows]. Lists of one group (`history_...`) have to be as long as the group's first, or a
    multiple of that for all rows, see `array_checks`."""
    total = np.zeros(table.num_rows, np.uint64)
    groups: dict[str, tuple[Words, Ints]] = {}
    with np.errstate(over="ignore"):
        for field in table.schema:
            if not pa.types.is_list(field.type):
                total += _words(table.column(field.name).combine_chunks()) * _odd(field.name)
                continue
            values, offsets = list_values(table, field.name)
            words = _words(values) * _odd(field.name)
            group = field.name if field.name.startswith("user_") else field.name.split("_")[0]
            if group in groups:
                total_words, offsets = groups[group]
                groups[group] = (total_words + _folded(words, len(total_words)), offsets)
            else:
                groups[group] = (words, offsets)
        for group, (words, offsets) in groups.items():
            elements = mix(words + _places(offsets) * PLACE)
            lists = _sums(elements, offsets) + np.diff(offsets).view(np.uint64) * LENGTH
            total += mix(lists * _odd(group))
        return mix(total)


def digest_sums(table: pa.Table) -> dict[str, int]:
    """Sums over rows that `digest_from_sums` turns into the digest; those of several tables add up (modulo 2^64)."""
    rows = row_hashes(table)
    with np.errstate(over="ignore"):
        second = mix(rows ^ _odd("#second"))
        return {"digest_rows": len(rows), "digest_1": int(rows.sum()), "digest_2": int(second.sum())}


def digest_from_sums(sums: dict[str, int]) -> str:
    """The digest, from the summed `digest_sums` of every table; {} stands for no rows."""
    names = ("digest_rows", "digest_1", "digest_2")
    return digest_of({name: sums.get(name, 0) % 2**64 for name in names})
