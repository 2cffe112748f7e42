"""User buckets: the same hash in every partition, so that partitions join without a shuffle.

A bucket is the low bits of Spark's own hash of the user id (Murmur3, seed 42), so what Spark writes after
`repartition(K, "user_id")` has one bucket a file for K a power of two. Buckets nest: bucket b of K holds the buckets
b, b + K, b + 2K ... of any larger power of two, and partitions of different sizes still go together.
"""

import math

import numpy as np
from numpy.typing import NDArray

from longreel.contracts.jagged import Ints
from longreel.lake.files import PublishedFile
from longreel.lake.manifest import Manifest
from longreel.lake.table import Lake

SEED = 42

_U32 = NDArray[np.uint32]


def _rotl(values: _U32, bits: int) -> _U32:
    return np.asarray((values << np.uint32(bits)) | (values >> np.uint32(32 - bits)), np.uint32)


def _mix(state: _U32, block: _U32) -> _U32:
    block = _rotl(block * np.uint32(0xCC9E2D51), 15) * np.uint32(0x1B873593)
    return np.asarray(_rotl(state ^ block, 13) * np.uint32(5) + np.uint32(0xE6546B64), np.uint32)


def spark_hash(users: Ints) -> _U32:
    """Spark's `hash(user_id)` of BIGINTs [n], as unsigned 32 bits (Appleby's MurmurHash3_x86_32 of 8 bytes)."""
    words = np.ascontiguousarray(users, np.int64).view(np.uint64)
    with np.errstate(over="ignore"):
        state = _mix(np.full(len(words), SEED, np.uint32), (words & np.uint64(0xFFFFFFFF)).astype(np.uint32))
        state = _mix(state, (words >> np.uint64(32)).astype(np.uint32)) ^ np.uint32(8)
        state = (state ^ (state >> np.uint32(16))) * np.uint32(0x85EBCA6B)
        state = (state ^ (state >> np.uint32(13))) * np.uint32(0xC2B2AE35)
        return np.asarray(state ^ (state >> np.uint32(16)), np.uint32)


def bucket_of(users: Ints, buckets: int) -> Ints:
    """The bucket, 0 .. buckets - 1, of user ids [n]; `buckets` is a power of two."""
    return (spark_hash(users) & np.uint32(buckets - 1)).astype(np.int64)


def num_buckets(rows: int, rows_a_bucket: int) -> int:
    """The least power of two that leaves a bucket about `rows_a_bucket` rows."""
    return 1 << max(0, math.ceil(math.log2(max(1, rows / rows_a_bucket))))


def files_of(lake: Lake, manifest: Manifest, bucket: int, buckets: int) -> list[PublishedFile]:
    """The files of a partition that may hold users of bucket `bucket` of `buckets`."""
    shared = min(manifest.buckets, buckets)
    return [file for file in lake.files(manifest) if file.bucket % shared == bucket % shared]
