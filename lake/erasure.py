"""Erasure requests: which users must leave a lake, and what was removed for them.

    <root>/erasure_requests/_salt                            random, made with the first request
    <root>/erasure_requests/20260302T081301-1a2b3c4d.json    a request, written before any row is removed, then updated

A request has three uses. Its users are on the suppression list: ingest and import-history leave their rows out from
then on. A command that was killed reads how far it got. And it is the evidence of what was removed. A user is kept as
SHA-256(salt, id). Who has the lake can ask whether a given id is on the list, which ingest must be able to do; without
the lake the hash tells nothing. With the salt, small ids can be found by trying all of them. A request has a checksum
of what it says and of the salt: neither is believed once it was edited or damaged.
"""

import hashlib
import json
import secrets
import uuid
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from longreel.contracts.digests import digest_of
from longreel.contracts.errors import LongreelError
from longreel.contracts.serialization import parse_json
from longreel.lake.manifest import CHECKSUM
from longreel.lake.storage import Storage, utc_stamp

FOLDER = "erasure_requests"
SALT = "_salt"
LOCK = "_lock"  # held by the `forget` that is running


@dataclass(frozen=True, kw_only=True)
class Removal:
    """Rows removed from one partition, and its digest before and after; recorded before the partition is committed."""

    dataset: str
    date: str
    rows: int
    before: str
    after: str

    @property
    def name(self) -> str:
        """As manifests name the partition among their inputs."""
        return f"{self.dataset}/{self.date}"


@dataclass(frozen=True, kw_only=True)
class ErasureRequest:
    """One request to erase users."""

    name: str
    users: tuple[str, ...]  # `user_hash` of each, sorted
    began: str
    finished: str | None = None
    users_with_rows: tuple[str, ...] = ()  # those of `users` who had rows
    removals: tuple[Removal, ...] = ()
    relinked: int = 0  # partitions without rows of theirs whose inputs were brought up to date
    builds_deleted: int = 0  # superseded or orphaned builds

    def with_removal(self, removal: Removal, users_with_rows: Iterable[str]) -> "ErasureRequest":
        """The request with a removal, which replaces an earlier one of the same rows, and with users who had rows."""
        removals = {(item.name, item.before): item for item in (*self.removals, removal)}
        return replace(
            self,
            removals=tuple(removals[key] for key in sorted(removals)),
            users_with_rows=tuple(sorted({*self.users_with_rows, *users_with_rows})),
        )

    def updated_inputs(self, inputs: dict[str, str]) -> dict[str, str]:
        """A manifest's inputs, with the digest after the removal where they name the one before it."""
        after = {(item.name, item.before): item.after for item in self.removals}
        return {name: after.get((name, digest), digest) for name, digest in inputs.items()}

    def totals(self) -> dict[str, tuple[int, int]]:
        """Partitions and rows removed from each dataset."""
        totals: dict[str, tuple[int, int]] = {}
        for removal in self.removals:
            partitions, rows = totals.get(removal.dataset, (0, 0))
            totals[removal.dataset] = (partitions + 1, rows + removal.rows)
        return totals


@dataclass(frozen=True)
class SuppressionList:
    """Users whose rows are left out: their `user_hash`es, and the salt of these."""

    salt: str
    users: frozenset[str]


def user_hash(salt: str, user_id: int) -> str:
    """What requests keep of a user."""
    return hashlib.sha256(f"{salt}{user_id}".encode()).hexdigest()


def lake_salt(storage: Storage) -> str:
    """The lake's salt; made where it has none."""
    return storage.create_once(storage.path(FOLDER, SALT), secrets.token_hex(16))


def one_erasure(storage: Storage) -> AbstractContextManager[None]:
    """Serialises erasures: each would refuse the builds of another that is running, and delete them."""
    return storage.locked(storage.path(FOLDER, LOCK), "another `longreel data forget` is running; waiting for its end")


def request_path(storage: Storage, name: str) -> str:
    """Where a request is stored."""
    return storage.path(FOLDER, f"{name}.json")


def request_names(storage: Storage) -> tuple[str, ...]:
    """The names of all erasure requests, oldest first."""
    names = (PurePosixPath(info.path).name for info in storage.list(storage.path(FOLDER)))
    return tuple(name.removesuffix(".json") for name in names if name.endswith(".json"))


def erasure_requests(storage: Storage) -> list[ErasureRequest]:
    """Every request, oldest first.

    Raises:
        LongreelError: a request cannot be read.
    """
    return [_read_request(request_path(storage, name), storage) for name in request_names(storage)]


def write_request(storage: Storage, request: ErasureRequest) -> None:
    """Write a request, replacing the one of its name."""
    values = json.loads(json.dumps(asdict(request) | {"totals": request.totals()}))
    text = json.dumps(values | {CHECKSUM: _checksum(values, lake_salt(storage))}, indent=1)
    storage.write_atomic(request_path(storage, request.name), text)


def new_request(users: Iterable[str]) -> ErasureRequest:
    """A request that begins now, of users as `user_hash` gives them."""
    began = utc_stamp()
    return ErasureRequest(name=f"{began}-{uuid.uuid4().hex[:8]}", users=tuple(sorted(users)), began=began)


def suppression_list(storage: Storage) -> SuppressionList | None:
    """The users of all requests; None where there are none."""
    users = frozenset(user for request in erasure_requests(storage) for user in request.users)
    return SuppressionList(lake_salt(storage), users) if users else None


def _checksum(values: dict[str, Any], salt: str | None) -> str:
    return digest_of([values, salt])


def _read_request(path: str, storage: Storage) -> ErasureRequest:
    try:
        values = parse_json(storage.read_text(path) or "")
        checksum = values.pop(CHECKSUM)
        if checksum != _checksum(values, storage.read_text(storage.path(FOLDER, SALT))):
            raise ValueError(f"it, or the salt in {FOLDER}/{SALT}, is not what was written")
        if path != request_path(storage, values["name"]):
            raise ValueError(f"it is {values['name']}")
        values.pop("totals")  # for people who read the file
        values |= {name: tuple(values[name]) for name in ("users", "users_with_rows")}
        values["removals"] = tuple(Removal(**item) for item in values["removals"])
        return ErasureRequest(**values)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LongreelError(
            f"{path} is not an erasure request ({error}); restore it: without it rows of its users would return"
        ) from error
