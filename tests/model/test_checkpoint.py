"""A saved model is the model in memory, or is refused."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from longreel.contracts.config import Config
from longreel.contracts.errors import LongreelError
from longreel.model.data.encodings import learn_encodings
from longreel.model.data.samples import SampleRows
from longreel.model.nn.ranker import Ranker
from longreel.model.training.checkpoint import CONFIG, WEIGHTS, load_model, model_digest, new_folder, save_model
from tests.model.every_kind import EVERY_KIND, make_sample_rows


@pytest.fixture
def ranker(config: Config, make_ranker: Callable[..., Ranker]) -> Ranker:
    return make_ranker(config.model).eval()


@pytest.fixture
def saved(ranker: Ranker, tmp_path: Path) -> Path:
    save_model(tmp_path / "model", ranker, {"data_watermark": "2026-01-05"})
    return tmp_path / "model"


def test_reloaded_equals_in_memory(ranker: Ranker, saved: Path, sample_rows: Callable[..., SampleRows]) -> None:
    again, meta = load_model(saved)
    assert meta == {"data_watermark": "2026-01-05"}
    assert (again.tasks, again.config) == (ranker.tasks, ranker.config)
    assert (again.log_schema, again.encodings) == (ranker.log_schema, ranker.encodings)
    batch = sample_rows(1).pack(np.arange(10), 64)
    assert torch.equal(again(batch), ranker(batch))


def test_settings_come_back(
    config: Config,
    tmp_path: Path,
    sample_rows: Callable[..., SampleRows],
    make_ranker: Callable[..., Ranker],
) -> None:
    changed = replace(config.model, match_counts=True, mixer_layers=2, dropout=0.3)
    ranker = make_ranker(changed).eval()
    save_model(tmp_path / "model", ranker, {})
    again, _ = load_model(tmp_path / "model")
    assert again.config == changed
    batch = sample_rows(1).pack(np.arange(10), 64)
    assert torch.equal(again(batch), ranker(batch))


def test_a_model_of_every_kind_of_field_comes_back(config: Config, tmp_path: Path) -> None:
    rows = make_sample_rows(EVERY_KIND, 1)
    ranker = Ranker(config.model, ("spent", "click"), EVERY_KIND, learn_encodings(EVERY_KIND, rows)).eval()
    save_model(tmp_path / "model", ranker, {})
    again, _ = load_model(tmp_path / "model")
    assert (again.log_schema, again.encodings) == (EVERY_KIND, ranker.encodings)
    batch = make_sample_rows(EVERY_KIND, 2).pack(np.arange(10), 64)
    assert torch.equal(again(batch), ranker(batch))
    assert torch.equal(again.values(again(batch)), ranker.values(ranker(batch)))


def test_digest_names_the_content(ranker: Ranker, saved: Path, tmp_path: Path) -> None:
    assert save_model(tmp_path / "copy", ranker, {"data_watermark": "2026-01-05"}) == model_digest(saved)
    assert save_model(tmp_path / "copy", ranker, {"data_watermark": "2026-01-06"}) != model_digest(saved)
    with torch.no_grad():
        ranker.head.bias[0] += 1e-3
    assert save_model(tmp_path / "copy", ranker, {"data_watermark": "2026-01-05"}) != model_digest(saved)


def test_tampered_weights_and_description_are_refused(saved: Path) -> None:
    weights = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(LongreelError, match="not the file that was saved"):
        load_model(saved)
    (saved / WEIGHTS).write_bytes(weights)
    load_model(saved)
    described = json.loads((saved / CONFIG).read_text())
    (saved / CONFIG).write_text(json.dumps(described | {"tasks": ["like", "click"]}))
    with pytest.raises(LongreelError, match="was changed after it was saved"):
        model_digest(saved)


def test_missing_or_foreign_folders_are_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(LongreelError, match="no model in"):
        load_model(tmp_path / "nowhere")
    (saved / WEIGHTS).unlink()
    with pytest.raises(LongreelError, match="not the file that was saved"):
        load_model(saved)
    (saved / CONFIG).write_text("[]")
    with pytest.raises(LongreelError, match="not a model description"):
        load_model(saved)


def test_failed_write_leaves_the_old_folder(saved: Path) -> None:
    before = model_digest(saved)
    with pytest.raises(ZeroDivisionError), new_folder(saved) as draft:
        (draft / WEIGHTS).write_text(str(1 / 0))
    assert model_digest(saved) == before
    assert [path.name for path in saved.parent.iterdir() if path.name.startswith(".")] == []
