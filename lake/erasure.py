"""Whom was a lake told to forget? One record a request: salted hashes of the users, and what was removed for them.

    <root>/erasure_requests/_salt                            random, made with the first request
    <root>/erasure_requests/20260302T081301-1a2b3c4d.json    a request, written before any row is removed, then updated

A record has three uses. Its users stay forgotten: ingest and import-history leave their rows out from then on. It tells
a request that was killed how far it got. And it is the evidence of what was done. A user is kept as
SHA-256(salt, id): whoever has the lake can ask whether a given id was forgotten, which ingest must be able to do, and
nobody else can tell anything from it. With the salt, small ids can be found by trying all of them.
"""

import hashlib
import json
import secrets
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace

from longreel.contracts.errors import LongreelError
from longreel.lake.table import Lake, build_time

SALT = "_salt"


@dataclass(frozen=True, kw_only=True)
class Removal:
    """Rows removed from one partition, and its digest before and after; written down before it is published."""

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
    """One request to forget users."""

    name: str
    users: tuple[str, ...]  # `user_hash` of each, sorted
    began: str
    finished: str | None = None
    users_with_rows: tuple[str, ...] = ()  # those of `users` who had rows
    removals: tuple[Removal, ...] = ()
    relinked: int = 0  # partitions without rows of theirs whose inputs were brought up to date
    builds_deleted: int = 0  # superseded or abandoned builds

    def with_removal(self, new: Removal, found: Iterable[str]) -> "ErasureRequest":
        """The record with this, in the place of what it had of the same rows, and users who had rows."""
        known = {(each.name, each.before): each for each in (*self.removals, new)}
        removals = tuple(known[key] for key in sorted(known))
        return replace(self, removals=removals, users_with_rows=tuple(sorted({*self.users_with_rows, *found})))

    def updated_inputs(self, inputs: dict[str, str]) -> dict[str, str]:
        """A manifest's inputs, with the digest after the removal where they name the one before it."""
        moved = {(each.name, each.before): each.after for each in self.removals}
        return {name: moved.get((name, value), value) for name, value in inputs.items()}

    def totals(self) -> dict[str, tuple[int, int]]:
        """Of each dataset, how many partitions and rows."""
        found: dict[str, tuple[int, int]] = {}
        for removal in self.removals:
            partitions, rows = found.get(removal.dataset, (0, 0))
            found[removal.dataset] = (partitions + 1, rows + removal.rows)
        return found


@dataclass(frozen=True)
class SuppressionList:
    """Who stays forgotten: `user_hash`es, and the salt that they were made with."""

    salt: str
    users: frozenset[str]


def user_hash(salt: str, user_id: int) -> str:
    """What records keep of a user."""
    return hashlib.sha256(f"{salt}{user_id}".encode()).hexdigest()


def lake_salt(lake: Lake) -> str:
    """The lake's salt, made where it has none."""
    return lake.put_text_once(f"{lake.erasure_folder}/{SALT}", secrets.token_hex(16))


def erasure_requests(lake: Lake) -> list[ErasureRequest]:
    """Every request, oldest first.

    Raises:
        LongreelError: a record cannot be read.
    """
    found = []
    for name in lake.erasure_request_names():
        path = f"{lake.erasure_folder}/{name}.json"
        try:
            values = json.loads(lake.get_text(path) or "")
            removals = tuple(Removal(**each) for each in values.pop("removals"))
            values.pop("totals")  # for people who read the file
            values |= {name: tuple(values[name]) for name in ("users", "users_with_rows")} | {"removals": removals}
            found.append(ErasureRequest(**values))
        except (ValueError, KeyError, TypeError) as error:
            raise LongreelError(
                f"{path} is not a record of forgotten users ({error}); restore it: without it they would come back"
            ) from error
    return found


def write_request(lake: Lake, record: ErasureRequest) -> None:
    """Write a record, replacing the one of its name."""
    values = asdict(record) | {"totals": record.totals()}
    lake.put_text(f"{lake.erasure_folder}/{record.name}.json", json.dumps(values, indent=1))


def new_request(users: Iterable[str]) -> ErasureRequest:
    """A request that begins now."""
    began = build_time()
    return ErasureRequest(name=f"{began}-{uuid.uuid4().hex[:8]}", users=tuple(sorted(users)), began=began)


def suppression_list(lake: Lake) -> SuppressionList | None:
    """Who stays forgotten; None for nobody."""
    users = frozenset(user for record in erasure_requests(lake) for user in record.users)
    return SuppressionList(lake_salt(lake), users) if users else None
