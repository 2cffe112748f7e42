"""Promotion ledger on a real MLflow store: promotions, rollbacks, crashes, races, damaged files."""

import importlib.util
import json
import os
import py_compile
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest

from longreel.cli import main
from longreel.components.registry import registration, store, versions
from longreel.components.registry.entries import Entry
from longreel.components.registry.ledger import CONFLICT_TAG, Ledger
from longreel.components.registry.versions import Version
from longreel.contracts.errors import LongreelError
from longreel.contracts.report import EvaluationReport
from longreel.lake.home import Home

UNCHECKED = py_compile.PycInvalidationMode.UNCHECKED_HASH
Register = Callable[..., Version]
Promotion = Callable[..., object]


@pytest.fixture
def home(make_home: Callable[..., Home]) -> Home:
    return make_home()


def alias_of(ledger: Ledger) -> int | None:
    """The alias as any other program sees it."""
    version = ledger.client.get_registered_model(ledger.model).aliases.get("champion")
    return None if version is None else int(version)


def moves(ledger: Ledger) -> list[tuple[str, int | None, int, bool]]:
    return [(e.action, e.from_version, e.to_version, e.superseded) for e in ledger.entries()]


def test_promotion_moves_the_alias_and_is_recorded(home: Home, register: Register, promotion: Promotion) -> None:
    ledger, first, second = Ledger(home), register(home, 1), register(home, 2)
    assert ledger.champion() is None
    ledger.promote(promotion(first, None), first)
    entry = ledger.promote(promotion(second, first), second)
    assert alias_of(ledger) == second.version
    assert moves(ledger) == [("promote", None, 1, False), ("promote", 1, 2, False)]
    assert entry.decision == promotion(second, first).digest()
    assert "@" in entry.who
    assert entry.reason == "It is better."
    assert entry.at.endswith("Z")
    assert entry.model_digest == second.model_digest
    assert Ledger(home).champion() == ledger.champion()  # nothing is kept in memory only


def test_the_same_promotion_twice_is_one_entry(home: Home, register: Register, promotion: Promotion) -> None:
    ledger, first = Ledger(home), register(home, 1)
    assert ledger.promote(promotion(first, None), first) == ledger.promote(promotion(first, None), first)
    assert len(ledger.entries()) == 1


def test_a_rollback_is_not_undone_by_a_retry_of_the_promotion(
    home: Home, register: Register, promotion: Promotion
) -> None:
    """As by the retry of a task that was killed after its promotion."""
    ledger, first, second = Ledger(home), register(home, 0), register(home, 1)
    ledger.promote(promotion(first, None), first)
    ledger.promote(promotion(second, first), second)
    ledger.rollback(reason="it ranks nothing but trailers")
    with pytest.raises(LongreelError, match=r"rollback by .*: it ranks nothing but trailers; .*--to-version 2"):
        ledger.promote(promotion(second, first), second)
    assert ledger.champion() == first
    ledger.rollback(second.version, "it was the trailers")
    assert ledger.promote(promotion(second, first), second).to_version == second.version
    assert ledger.champion() == second
    assert len(ledger.entries()) == 4


def test_registering_the_same_model_of_a_run_twice_is_one_version(home: Home, register: Register) -> None:
    first = register(home, 1)
    client = store.open_store(home)
    again = registration.register_version(
        home, client, home.work / "model-1", run_id=first.run_id, tasks=home.config.tasks, tags=dict(first.tags)
    )
    assert again.version == first.version
    assert len(versions.list_versions(client, versions.model_name(home.config))) == 1


class Retries(mlflow.MlflowClient):
    """MLflow's client over http when a response is lost after the server has done its work."""

    def create_model_version(self, *words: Any, **more: Any) -> Any:
        super().create_model_version(*words, **more)
        return super().create_model_version(*words, **more)


def test_a_promotion_whose_response_was_lost_counts_once(home: Home, register: Register, promotion: Promotion) -> None:
    first, second = register(home, 1), register(home, 2)
    ledger = Ledger(home, Retries(tracking_uri=home.tracking_uri, registry_uri=home.tracking_uri))
    assert not ledger.promote(promotion(first, None), first).superseded
    assert not ledger.promote(promotion(second, first), second).superseded
    assert moves(ledger) == [
        ("promote", None, 1, False),
        ("promote", None, 1, True),
        ("promote", 1, 2, False),
        ("promote", 1, 2, True),
    ]
    assert alias_of(ledger) == 2
    assert ledger.rollback().to_version == 1


def test_a_registration_whose_response_was_lost_keeps_one_version(home: Home, register: Register) -> None:
    first = register(home, 1)
    client = Retries(tracking_uri=home.tracking_uri, registry_uri=home.tracking_uri)
    run = client.create_run(store.experiment_id(home, client))
    registered = [
        registration.register_version(
            home,
            client,
            home.work / "model-1",
            run_id=run.info.run_id,
            tasks=home.config.tasks,
            tags={key: value for key, value in first.tags.items() if key != "model_digest"},
        ).version
        for _ in range(2)
    ]
    assert registered == [2, 2]


def test_a_promotion_that_the_decision_does_not_allow_is_rejected(
    home: Home, register: Register, promotion: Promotion
) -> None:
    import dataclasses

    ledger, first, second = Ledger(home), register(home, 1), register(home, 2)
    allowed = promotion(first, None)
    with pytest.raises(LongreelError, match="to hold, not to promote"):
        ledger.promote(dataclasses.replace(allowed, outcome="hold"), first)
    with pytest.raises(LongreelError, match="name the version that was evaluated"):
        ledger.promote(allowed, second)
    later = dataclasses.replace(allowed, date="2026-01-05")
    with pytest.raises(LongreelError, match=r"allows 1 evaluation day\(s\), and this decision is of 2026-01-05"):
        ledger.promote(later, first)
    ledger.promote(allowed, first)
    with pytest.raises(LongreelError, match="evaluate and decide again"):
        ledger.promote(promotion(second, None), second)  # decided before there was a champion
    assert moves(ledger) == [("promote", None, 1, False)]


def test_rollback_goes_back_step_by_step_and_is_recorded(home: Home, register: Register, promotion: Promotion) -> None:
    ledger, registered = Ledger(home), [register(home, seed) for seed in (1, 2, 3, 4)]
    for before, after in zip([None, *registered[:2]], registered[:3], strict=True):
        ledger.promote(promotion(after, before), after)
    assert ledger.rollback(reason="it was bad").to_version == 2
    assert ledger.rollback().to_version == 1
    assert alias_of(ledger) == 1
    with pytest.raises(LongreelError, match="first champion"):
        ledger.rollback()
    with pytest.raises(LongreelError, match=r"champions before were \[2, 3\]"):
        ledger.rollback(to_version=4)  # never passed the gates
    assert ledger.rollback(to_version=3).to_version == 3
    assert alias_of(ledger) == 3
    assert [m[:3] for m in moves(ledger)[3:]] == [("rollback", 3, 2), ("rollback", 2, 1), ("rollback", 1, 3)]
    assert ledger.entries()[3].reason == "it was bad"


def test_a_declined_candidate_is_recorded_and_moves_nothing(
    home: Home, register: Register, promotion: Promotion
) -> None:
    ledger, first, second = Ledger(home), register(home, 1), register(home, 2)
    assert ledger.decline(promotion(first, None), first, "not yet").reason == "not yet"  # before any champion
    assert ledger.champion() is None
    ledger.promote(promotion(first, None), first)
    entry = ledger.decline(promotion(second, first), second, "a launch is tomorrow")
    assert ledger.decline(promotion(second, first), second, "again") == entry
    assert alias_of(ledger) == 1
    assert moves(ledger)[1:] == [("promote", None, 1, False), ("decline", 1, 2, False)]
    declined = versions.get_version(ledger.client, ledger.model, second.version).tags["declined"]
    assert declined == f"by {entry.who}: a launch is tomorrow"
    with pytest.raises(LongreelError, match="name the version that was evaluated"):
        ledger.decline(promotion(second, first), first)
    ledger.promote(promotion(second, first), second)  # approved later
    assert ledger.rollback().to_version == 1  # a declined candidate is not rolled back to
    assert [m[:3] for m in moves(ledger)[3:]] == [("promote", 1, 2), ("rollback", 2, 1)]


def test_an_entrys_model_digest_is_compared_with_the_versions(
    home: Home, register: Register, promotion: Promotion
) -> None:
    ledger, registered = Ledger(home), [register(home, seed) for seed in (1, 2, 3)]
    for before, after in zip([None, *registered[:2]], registered, strict=True):
        ledger.promote(promotion(after, before), after)
    digest = registered[0].model_digest
    for number in ("2", "3"):
        ledger.client.set_model_version_tag(ledger.model, number, "model_digest", digest)
    state = ledger.read()
    assert (state.champion, state.champions, state.previous) == (None, [1], 1)
    assert f"its model digest is {digest}, the ledger recorded {registered[2].model_digest}" in state.conflict
    with pytest.raises(LongreelError, match="cannot be rolled back to"):
        ledger.rollback(to_version=2)
    assert ledger.rollback().to_version == 1


def test_rollback_without_a_champion_says_so(home: Home) -> None:
    with pytest.raises(LongreelError, match="no champion"):
        Ledger(home).rollback()


def test_a_crash_between_entry_and_alias_is_repaired_by_the_next_call(
    home: Home, register: Register, promotion: Promotion, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, first, second = Ledger(home), register(home, 1), register(home, 2)
    ledger.promote(promotion(first, None), first)
    before = ledger.champion()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ledger.client, "set_registered_model_alias", killed)
        with pytest.raises(KeyboardInterrupt):
            ledger.promote(promotion(second, before), second)
    assert alias_of(ledger) == 1  # the crash left the alias behind its ledger
    champion = Ledger(home).champion()
    assert champion == second
    assert alias_of(ledger) == 1  # looking leaves it there
    assert (ledger.read().is_unfinished, ledger.read().conflict) == (True, "")
    assert ledger.settle().champion == second
    assert alias_of(ledger) == 2
    assert len(ledger.entries()) == 2


def test_a_crash_before_the_entry_changes_nothing(
    home: Home, register: Register, promotion: Promotion, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, first = Ledger(home), register(home, 1)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ledger.client, "create_model_version", killed)
        with pytest.raises(KeyboardInterrupt):
            ledger.promote(promotion(first, None), first)
    assert Ledger(home).champion() is None
    assert alias_of(ledger) is None


def test_of_two_promotions_from_the_same_champion_one_counts(
    home: Home, register: Register, promotion: Promotion, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, fast, first, second = Ledger(home), Ledger(home), register(home, 1), register(home, 2)
    append = slow._append

    def overtaken(*args: object) -> int:
        fast.promote(promotion(second, None), second)  # between the slow one's checks and its entry
        return append(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(slow, "_append", overtaken)
    with pytest.raises(LongreelError, match="at the same moment"):
        slow.promote(promotion(first, None), first)
    assert moves(fast) == [("promote", None, 2, False), ("promote", None, 1, True)]
    assert alias_of(fast) == 2


def test_two_processes_that_make_the_same_promotion_both_succeed(
    home: Home, register: Register, promotion: Promotion, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, fast, first = Ledger(home), Ledger(home), register(home, 1)
    append = slow._append

    def overtaken(*args: object) -> int:
        fast.promote(promotion(first, None), first)
        return append(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(slow, "_append", overtaken)
    assert slow.promote(promotion(first, None), first).sequence == 1
    assert moves(fast) == [("promote", None, 1, False), ("promote", None, 1, True)]


def test_a_superseded_rollback_is_not_confused_with_an_older_equal_one(
    home: Home, register: Register, promotion: Promotion, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, fast = Ledger(home), Ledger(home)
    first, second, third = register(home, 1), register(home, 2), register(home, 3)
    ledger.promote(promotion(first, None), first)
    ledger.promote(promotion(second, first), second)
    ledger.rollback()
    ledger.rollback(second.version)
    append = ledger._append

    def overtaken(*args: object) -> int:
        fast.promote(promotion(third, second), third)
        return append(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(ledger, "_append", overtaken)
    with pytest.raises(LongreelError, match="at the same moment"):
        ledger.rollback()
    assert alias_of(fast) == third.version


@pytest.fixture
def moved(home: Home, register: Register, promotion: Promotion) -> Ledger:
    """Versions 1 and 2 were promoted, 3 never was, and a person moved the alias from 2 back to 1 in MLflow."""
    ledger, first, second = Ledger(home), register(home, 1), register(home, 2)
    register(home, 3)
    ledger.promote(promotion(first, None), first)
    ledger.promote(promotion(second, first), second)
    set_alias(ledger, 1)
    return ledger


def set_alias(ledger: Ledger, version: int) -> None:
    """As on MLflow's page."""
    ledger.client.set_registered_model_alias(ledger.model, "champion", str(version))


def shown_conflict(ledger: Ledger) -> str | None:
    """What the model's page shows."""
    return ledger.client.get_registered_model(ledger.model).tags.get(CONFLICT_TAG)


def test_an_alias_moved_by_hand_stays_until_a_person_decides(moved: Ledger, promotion: Promotion) -> None:
    second, third = (versions.get_version(moved.client, moved.model, number) for number in (2, 3))
    assert moved.champion() == second
    conflict = moved.read().conflict
    assert "it is version 1, by ledger entry 2 it is version 2" in conflict
    assert "`longreel model promote --adopt`" in conflict
    assert "`longreel model rollback --to-version 2`" in conflict
    assert shown_conflict(moved) is None  # looking writes nothing
    with pytest.raises(LongreelError, match="was moved in MLflow"):
        moved.promote(promotion(third, second), third)
    with pytest.raises(LongreelError, match="was moved in MLflow"):
        moved.rollback()
    assert (alias_of(moved), len(moved.entries())) == (1, 2)
    assert shown_conflict(moved) == conflict


def test_a_moved_alias_is_adopted_with_one_command(
    home: Home, moved: Ledger, promotion: Promotion, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["model", "promote", "--home", str(home.path), "--adopt"]
    assert main([*command, "--reason", "nothing but trailers"]) == 0
    assert "champion: version 2 -> 1 (ledger entry 3)" in capsys.readouterr().out
    entry = moved.entries()[-1]
    assert (entry.action, entry.from_version, entry.to_version, entry.decision) == ("adopt", 2, 1, None)
    assert entry.reason == "nothing but trailers"
    assert (alias_of(moved), moved.read().conflict, shown_conflict(moved)) == (1, "", None)
    assert main(command) == 2
    assert "nothing to adopt" in capsys.readouterr().err
    set_alias(moved, 3)  # passed no gate
    assert moved.adopt().to_version == 3
    assert moved.rollback().to_version == 1
    assert moved.rollback(to_version=3).to_version == 3


def test_a_moved_alias_is_set_back_with_one_command(home: Home, moved: Ledger) -> None:
    assert main(["model", "rollback", "--home", str(home.path), "--to-version", "2"]) == 0
    assert moves(moved)[-1] == ("rollback", 2, 2, False)
    assert (alias_of(moved), moved.read().conflict, shown_conflict(moved)) == (2, "", None)
    with pytest.raises(LongreelError, match="cannot be rolled back to"):
        moved.rollback(to_version=2)  # the alias is there
    assert moved.rollback().to_version == 1


def test_an_alias_removed_by_hand_is_adopted_as_no_champion(moved: Ledger, promotion: Promotion) -> None:
    moved.client.delete_registered_model_alias(moved.model, "champion")
    assert "it is no version" in moved.read().conflict
    assert moved.adopt().to_version is None
    assert moved.champion() is None
    third = versions.get_version(moved.client, moved.model, 3)
    moved.promote(promotion(third, None), third)
    assert alias_of(moved) == 3


def test_a_promotion_to_where_the_alias_was_moved_makes_both_agree(moved: Ledger, promotion: Promotion) -> None:
    set_alias(moved, 3)
    second, third = (versions.get_version(moved.client, moved.model, number) for number in (2, 3))
    moved.promote(promotion(third, second), third)
    assert (alias_of(moved), moved.read().conflict) == (3, "")


def test_a_deleted_champion_is_named_and_rolled_back_from(
    home: Home, register: Register, promotion: Promotion, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger, registered = Ledger(home), [register(home, seed) for seed in (1, 2, 3)]
    for before, after in zip([None, *registered[:2]], registered, strict=True):
        ledger.promote(promotion(after, before), after)
    for number in ("3", "2"):
        ledger.client.delete_model_version(ledger.model, number)
    with pytest.raises(LongreelError, match="it was deleted in MLflow"):
        ledger.champion()
    state = ledger.read()
    assert (state.number, state.champion, state.previous, state.alias) == (3, None, 1, None)
    assert "Make version 1 the champion again: `longreel model rollback`" in state.conflict
    for command in ("model promotions", "ops status"):
        assert main([*command.split(), "--home", str(home.path)]) == 0
        assert "version 3, the champion of longreel-tiny, cannot be used" in capsys.readouterr().out
    assert main(["model", "rollback", "--home", str(home.path)]) == 0
    assert (alias_of(ledger), ledger.read().conflict) == (1, "")
    ledger.client.delete_model_version(ledger.model, "1")
    with pytest.raises(LongreelError, match="Keep no version: `longreel model promote --adopt`"):
        ledger.rollback()
    ledger.adopt()
    assert (ledger.champion(), ledger.read().conflict) == (None, "")
    fourth = register(home, 4)
    assert ledger.promote(promotion(fourth, None), fourth).to_version == fourth.version


def test_a_deleted_ledger_is_said_and_begun_again(moved: Ledger) -> None:
    moved.client.delete_registered_model(f"{moved.model}-ledger")
    assert moved.champion() is None
    assert "it is version 1, the ledger has no entry" in moved.read().conflict
    assert moved.adopt().from_version is None
    assert moved.read().champion == versions.get_version(moved.client, moved.model, 1)


@pytest.mark.parametrize("value", ["no JSON", "[]", "[" * 4_000, '{"action": "promote"}', None, "edit"])
def test_an_unreadable_entry_is_named_and_those_after_it_count(
    home: Home, register: Register, promotion: Promotion, value: str | None
) -> None:
    ledger, registered = Ledger(home), [register(home, seed) for seed in (1, 2, 3)]
    for before, after in zip([None, *registered[:2]], registered, strict=True):
        ledger.promote(promotion(after, before), after)
    name, client = f"{ledger.model}-ledger", ledger.client
    if value is None:
        client.delete_model_version_tag(name, "2", "entry")
    else:
        entry = client.get_model_version(name, "2").tags["entry"]
        client.set_model_version_tag(name, "2", "entry", entry.replace(": 1", ": []") if value == "edit" else value)
    state = ledger.read()
    assert [(fault.name, fault.number) for fault in state.faults] == [(name, 2)]
    assert (state.number, state.conflict) == (3, "")
    client.delete_model_version(name, "2")
    state = ledger.read()
    assert [fault.text.partition(";")[0] for fault in state.faults] == ["it was deleted"]
    assert (state.number, state.conflict) == (3, "")
    client.set_model_version_tag(name, "3", "entry", "no JSON")  # the newest: where it led is unknown
    assert (ledger.read().number, ledger.read().alias) == (1, 3)
    assert ledger.adopt().to_version == 3


def test_an_edited_tag_of_the_champion_is_named_and_rolled_back_from(
    home: Home, register: Register, promotion: Promotion
) -> None:
    ledger, first, second = Ledger(home), register(home, 1), register(home, 2)
    ledger.promote(promotion(first, None), first)
    ledger.promote(promotion(second, first), second)
    ledger.client.set_model_version_tag(ledger.model, "2", "evaluation_day", "Sunday")
    with pytest.raises(LongreelError, match="its tag evaluation_day was edited: expected a day as YYYY-MM-DD"):
        ledger.champion()
    with pytest.raises(LongreelError, match=f"the value of that tag on its run {second.run_id}"):
        versions.get_version(ledger.client, ledger.model, 2)
    assert [v.version for v in versions.list_versions(ledger.client, ledger.model)] == [1]
    assert ledger.rollback().to_version == 1
    ledger.client.set_model_version_tag(ledger.model, "2", "evaluation_day", str(second.evaluation_day))
    assert ledger.read().faults == []


def artefact_folder(ledger: Ledger, version: Version) -> Path:
    return versions.download(ledger.client, ledger.model, version)


# What a tamperer changes in a version's folder; none of it is weights or configuration.
TAMPERED: dict[str, Callable[[Path], object]] = {
    "scorer": lambda root: (root / "pyfunc_model.py").write_text("raise SystemExit('ran')"),
    "packed code": lambda root: (root / "code" / "longreel" / "__init__.py").write_text("raise SystemExit('ran')"),
    "another module": lambda root: (root / "code" / "torch.py").write_text("raise SystemExit('ran')"),
    "requirements": lambda root: (root / "requirements.txt").write_text("other"),
    "MLmodel": lambda root: (root / "MLmodel").write_text("[: no yaml"),
    "removed": lambda root: (root / "conda.yaml").unlink(),
    "link": lambda root: ((root / "code").rename(root / "moved"), (root / "code").symlink_to("moved")),
}


def test_a_version_is_its_whole_folder(home: Home, register: Register, promotion: Promotion, tmp_path: Path) -> None:
    ledger, first, second = Ledger(home), register(home, 1), register(home, 2)
    ledger.promote(promotion(first, None), first)
    ledger.promote(promotion(second, first), second)
    root = versions.download_all(ledger.client, ledger.model, first)
    shutil.copytree(root, tmp_path / "whole")
    for what, tamper in TAMPERED.items():
        tamper(root)
        with pytest.raises(LongreelError, match=r"one in .* was changed, added or removed"):
            ledger.rollback()
        with pytest.raises(LongreelError, match=f"registered was {first.files_digest}"):
            artefact_folder(ledger, first)
        assert ledger.read().number == 2, what
        shutil.rmtree(root)
        shutil.copytree(tmp_path / "whole", root)
    assert ledger.rollback().to_version == 1


def test_files_that_mlflow_and_python_write_change_no_digest(home: Home, register: Register) -> None:
    ledger, first = Ledger(home), register(home, 1)
    mlflow.pyfunc.load_model(f"models:/{ledger.model}/{first.version}")
    root = versions.download_all(ledger.client, ledger.model, first)
    cached = root / "code" / "planted" / "__pycache__"
    cached.mkdir(parents=True)
    (root / "registered_model_meta").write_text("model_name: m")
    source, tag = root.parent / "planted.py", sys.implementation.cache_tag
    source.write_text("raise SystemExit('planted code ran')")
    py_compile.compile(str(source), str(cached / f"__init__.{tag}.pyc"), invalidation_mode=UNCHECKED)
    assert versions.download_all(ledger.client, ledger.model, first) == root


def test_planted_bytecode_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a version's folder, whose digest leaves `__pycache__` out."""
    module, planted = tmp_path / "checked_module.py", tmp_path / "planted.py"
    module.write_text("answer = 'checked'")
    planted.write_text("answer = 'planted'")
    target = importlib.util.cache_from_source(str(module))
    py_compile.compile(str(planted), target, invalidation_mode=UNCHECKED)
    monkeypatch.syspath_prepend(tmp_path)
    with versions.without_bytecode():
        assert importlib.import_module("checked_module").answer == "checked"
    monkeypatch.delitem(sys.modules, "checked_module")
    assert importlib.import_module("checked_module").answer == "planted"  # what is kept out above


def test_changed_weights_are_neither_promoted_nor_loaded(home: Home, register: Register, promotion: Promotion) -> None:
    ledger, first = Ledger(home), register(home, 1)
    weights = artefact_folder(ledger, first) / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(LongreelError, match="was changed, added or removed"):
        ledger.promote(promotion(first, None), first)
    assert ledger.entries() == []
    with pytest.raises(LongreelError, match="not the file that was saved"):
        mlflow.pyfunc.load_model(f"models:/{ledger.model}/{first.version}")


def test_another_whole_model_in_a_versions_place_is_refused(
    home: Home, register: Register, promotion: Promotion, save_model: Callable[..., str]
) -> None:
    ledger, first = Ledger(home), register(home, 1)
    save_model(home, artefact_folder(ledger, first), 9)  # consistent in itself, only not what was registered
    with pytest.raises(LongreelError, match=f"registered was {first.files_digest}"):
        ledger.promote(promotion(first, None), first)
    with pytest.raises(LongreelError, match=f"registered was {first.model_digest}"):
        mlflow.pyfunc.load_model(f"models:/{ledger.model}/{first.version}")


def test_a_report_is_not_recorded_on_another_version(
    make_home: Callable[..., Home],
    register: Register,
    report: Callable[..., EvaluationReport],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home = make_home(3)
    first, second = register(home, 1), register(home, 2)
    (tmp_path / "report.json").write_text(report(model=first.model_digest).to_json())
    words = ["--candidate", str(tmp_path / "report.json"), "--record", str(second.version)]
    assert main(["model", "decide", "--home", str(home.path), *words]) == 2
    assert "name the version that was evaluated" in capsys.readouterr().err
    client = store.open_store(home)
    assert versions.get_version(client, versions.model_name(home.config), second.version).decision == versions.PENDING


def test_an_unknown_version_names_the_known_ones(home: Home, register: Register) -> None:
    register(home, 1)
    ledger = Ledger(home)
    with pytest.raises(LongreelError, match="has no version 7; registered are 1"):
        versions.get_version(ledger.client, ledger.model, 7)


def test_an_entry_reads_back_as_it_was_written(home: Home, register: Register, promotion: Promotion) -> None:
    ledger, first = Ledger(home), register(home, 1)
    written = ledger.promote(promotion(first, None), first)
    assert ledger.entries() == [written]
    assert isinstance(written, Entry)


def test_history_prints_every_change_with_who_and_why(
    home: Home,
    register: Register,
    promotion: Promotion,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["model", "promotions", "--home", str(home.path)]
    assert main(words) == 0
    assert "no version was promoted yet" in capsys.readouterr().out
    monkeypatch.setenv("LONGREEL_ACTOR", "release-bot")
    ledger, first, second = Ledger(home), register(home, 1), register(home, 2)
    ledger.promote(promotion(first, None), first)
    ledger.promote(promotion(second, first), second)
    assert main(["model", "rollback", "--home", str(home.path), "--reason", "clicks fell"]) == 0
    capsys.readouterr()
    assert main(words) == 0
    out = capsys.readouterr().out
    for part in ("none -> 1", "1 -> 2", "2 -> 1", "release-bot", "clicks", "rollback", "version 1"):
        assert part in out
    assert promotion(second, first).digest() in out  # type: ignore[attr-defined]
    assert main([*words, "--last", "1"]) == 0
    assert "none -> 1" not in capsys.readouterr().out


def test_history_shows_what_was_declined_though_nothing_was_promoted(
    home: Home, register: Register, promotion: Promotion, capsys: pytest.CaptureFixture[str]
) -> None:
    first = register(home, 1)
    Ledger(home).decline(promotion(first, None), first, "not yet")
    assert main(["model", "promotions", "--home", str(home.path)]) == 0
    out = capsys.readouterr().out
    assert "none stays, not 1" in out
    assert "not yet" in out
    assert "has no champion" in out


def test_two_homes_in_one_process_keep_two_stores(make_home: Callable[..., Home], register: Register) -> None:
    one, other = make_home(name="one"), make_home(name="other")
    register(one, 1)
    assert [v.version for v in versions.list_versions(store.open_store(one), "longreel-one")] == [1]
    assert versions.list_versions(store.open_store(other), "longreel-one") == []
    assert one.tracking_uri != other.tracking_uri
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_a_store_named_by_the_environment_stays_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", home.tracking_uri)
    store.open_store(home)
    assert os.environ["MLFLOW_TRACKING_URI"] == home.tracking_uri


def test_a_candidate_is_named_by_its_day_and_needs_recorded_reports(
    home: Home, register: Register, promotion: Promotion, capsys: pytest.CaptureFixture[str]
) -> None:
    import dataclasses

    ledger, first = Ledger(home), register(home, 1)
    folder = home.reports / "2026-01-03"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"version": first.version, "run_id": "r1"}))
    words = ["model", "promote", "--home", str(home.path), "--date", "2026-01-03"]
    for outcome, code in (("hold", 99), ("promote", 0)):
        decision = dataclasses.replace(promotion(first, None), outcome=outcome)  # type: ignore[type-var]
        (folder / "decision.json").write_text(decision.to_json())  # type: ignore[attr-defined]
        assert main([*words, "--dry-run"]) == code
        assert capsys.readouterr().out.splitlines()[-1] == f"version 1: {outcome}. It is better."
        assert ledger.champion() is None
    assert main(words) == 2  # a decision made by hand, without reports in MLflow
    assert "version 1 has no recorded evaluation" in capsys.readouterr().err
    assert alias_of(ledger) is None


def test_a_proposal_has_reasons_and_links(
    home: Home, promotion: Promotion, register: Register, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    first = register(home, 1)
    folder = home.reports / "2026-01-03"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps({"version": first.version, "run_id": "r1"}))
    (folder / "decision.json").write_text(promotion(first, None).to_json())  # type: ignore[attr-defined]
    (folder / "run_card.html").write_text("card")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example")
    assert main(["model", "promote", "--home", str(home.path), "--date", "2026-01-03", "--dry-run"]) == 0
    card = folder / "run_card.html"
    message = f"version 1: promote. It is better. Run card: {card} MLflow: http://mlflow.example/#/runs/r1"
    assert capsys.readouterr().out.splitlines()[-1] == message
