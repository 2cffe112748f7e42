"""A whole model passes every comparison of its logits; one that is broken somewhere fails the one that looks there."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from longreel.contracts.config import Config
from longreel.contracts.errors import LongreelError
from longreel.contracts.report import IN_MEMORY, ONE_ROW, PRECISION
from longreel.lake.table import Lake
from longreel.model.data.batch import RequestBatch, one_row_per_target, segment_ids
from longreel.model.data.samples import SampleRows
from longreel.model.evaluation.consistency import check_consistency, compare, rounding
from longreel.model.evaluation.evaluate import evaluate
from longreel.model.nn.ranker import Ranker
from longreel.model.training import golden
from longreel.model.training.checkpoint import load_model, save_model
from longreel.model.training.train import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def learned(config: Config) -> Config:
    """Settings by which histories come to matter to the logits."""
    return replace(config, training=replace(config.training, epochs=6, learning_rate=5e-3))


@pytest.fixture(scope="module")
def model_dir(learned: Config, lake: Lake, days: list[date], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("consistency")
    return train(learned, lake, days[:2], folder / "work", folder / "model").model_dir


@pytest.fixture(scope="module")
def rows(lake: Lake, days: list[date]) -> SampleRows:
    return SampleRows.from_arrow(lake.read(lake.require("samples", days[3])), lake.log_schema)


def passed_checks(ranker: Ranker, model_dir: Path, rows: SampleRows) -> dict[str, bool]:
    return {check.name: check.passed for check in check_consistency(ranker, model_dir, rows, 64, CPU)}


def test_a_whole_model_passes_and_its_report_says_how_closely(
    model_dir: Path, lake: Lake, days: list[date], learned: Config
) -> None:
    report = evaluate(model_dir, lake, days[3], learned)
    assert [check.name for check in report.consistency] == [IN_MEMORY, ONE_ROW]
    assert all(check.passed and check.logits > 20 for check in report.consistency)
    assert report.consistency[0].largest == 0  # the same kernels on the same device
    assert 0 < report.consistency[1].tolerance < 1e-4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("width", [64, 256])
def test_on_a_card_half_precision_is_held_to_float32(
    learned: Config, lake: Lake, days: list[date], tmp_path: Path, width: int
) -> None:
    """Trained there in bf16; a model in memory, and one row for each target, are compared in float32 all the same."""
    sizes = replace(learned.model, width=width, heads=width // 32)
    there = replace(learned, model=sizes, training=replace(learned.training, device="cuda", compile="off"))
    result = train(there, lake, days[:2], tmp_path / "work", tmp_path / "model")
    report = evaluate(result.model_dir, lake, days[3], there)
    checks = {check.name: check for check in report.consistency}
    print({name: (check.largest, check.tolerance) for name, check in checks.items()}, report.scoring)
    assert list(checks) == [IN_MEMORY, ONE_ROW, PRECISION]
    assert all(check.passed and check.logits > 20 for check in report.consistency)
    assert checks[PRECISION].largest > 100 * checks[ONE_ROW].largest  # bf16 was really in use


@pytest.mark.parametrize("name", ["embeddings.ids.weight", "stca.layers.1.key_value.weight", "head.bias"])
def test_a_model_that_was_not_saved_as_it_was_in_memory_fails(
    model_dir: Path, rows: SampleRows, tmp_path: Path, name: str
) -> None:
    """One tensor of it lacks the last step's thousandth; the folder is whole, and its digests agree."""
    ranker, meta = load_model(model_dir)
    with torch.no_grad():
        weight = ranker.get_parameter(name)
        weight.add_(1e-3 * torch.randn_like(weight))
    save_model(tmp_path / "other", ranker, meta, load_file(model_dir / "golden.safetensors"))
    again, _ = load_model(tmp_path / "other")
    assert passed_checks(again, tmp_path / "other", rows) == {IN_MEMORY: False, ONE_ROW: True}


def test_golden_logits_are_of_the_model_in_memory_not_of_the_saved_one(
    learned: Config, lake: Lake, days: list[date], tmp_path: Path, rows: SampleRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def save_without_head(folder: Path, ranker: Ranker, *rest: object) -> str:
        saved = Ranker(ranker.config, ranker.tasks, ranker.log_schema, ranker.encodings)
        saved.load_state_dict({n: v for n, v in ranker.state_dict().items() if n != "head.weight"}, strict=False)
        return save_model(folder, saved, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("longreel.model.training.train.save_model", save_without_head)
    folder = train(learned, lake, days[:2], tmp_path / "work", tmp_path / "model").model_dir
    assert passed_checks(load_model(folder)[0], folder, rows) == {IN_MEMORY: False, ONE_ROW: True}


def test_targets_of_a_request_that_see_each_other_fail(model_dir: Path, rows: SampleRows) -> None:
    def leak(_: object, inputs: tuple[Any, ...], z: Tensor) -> Tensor:
        offsets = inputs[2].target_offsets
        request = segment_ids(offsets, len(z))
        sums = torch.zeros(len(offsets) - 1, z.shape[1]).index_add(0, request, z)
        return z + 0.01 * (sums / offsets.diff()[:, None].clamp(min=1))[request]

    ranker, _ = load_model(model_dir)
    ranker.stca.register_forward_hook(leak)
    assert passed_checks(ranker, model_dir, rows)[ONE_ROW] is False


def test_logits_that_are_no_numbers_or_of_another_shape_fail(model_dir: Path, rows: SampleRows) -> None:
    ranker, _ = load_model(model_dir)
    with torch.no_grad():
        ranker.head.bias.fill_(torch.nan)
    assert passed_checks(ranker, model_dir, rows) == {IN_MEMORY: False, ONE_ROW: False}
    assert not compare("", np.zeros((3, 2)), np.zeros((4, 2)), 1.0).passed


@pytest.mark.parametrize("change", [lambda content: content[:-1] + bytes([content[-1] ^ 1]), None])
def test_changed_golden_requests_are_refused(
    model_dir: Path, tmp_path: Path, change: Callable[[bytes], bytes] | None
) -> None:
    shutil.copytree(model_dir, tmp_path / "model")
    path = tmp_path / "model" / "golden.safetensors"
    path.write_bytes(change(path.read_bytes())) if change else path.unlink()
    with pytest.raises(
        LongreelError, match=r"golden\.safetensors is not the file that was saved with its config\.json"
    ):
        golden.read(tmp_path / "model")


def test_a_model_without_golden_logits_passes_no_check_against_memory(
    model_dir: Path, rows: SampleRows, tmp_path: Path
) -> None:
    ranker, meta = load_model(model_dir)
    save_model(tmp_path / "bare", ranker, meta)
    assert passed_checks(ranker, tmp_path / "bare", rows) == {ONE_ROW: True}


def in_bf16(ranker: Ranker, batch: RequestBatch) -> NDArray[np.float32]:
    """Logits as a device with half precision has them; a CPU computes in bf16 too, only slowly."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        return np.asarray(ranker(batch).float().numpy())


@pytest.fixture
def golden_batch(model_dir: Path) -> RequestBatch:
    kept = golden.read(model_dir)
    assert kept is not None
    return kept[0]


def test_half_precision_lies_within_what_rounding_may_do_and_near_it(
    model_dir: Path, golden_batch: RequestBatch
) -> None:
    ranker, _ = load_model(model_dir)
    for batch in (golden_batch, one_row_per_target(golden_batch)):
        exact = golden.float32_logits(ranker, batch, CPU)
        gap, allowed = np.abs(in_bf16(ranker, batch) - exact).max(), rounding(ranker, exact, torch.bfloat16)
        assert allowed / 20 < gap < allowed
        assert allowed < 0.1 * exact.std()


def _hotter(ranker: Ranker) -> None:
    for layer in ranker.stca.layers:
        layer.query.weight.mul_(1.5)  # type: ignore[operator, union-attr]


def _unscaled(ranker: Ranker) -> None:
    ranker.stca.layers[0].encode_norm.weight.mul_(1.2)  # type: ignore[operator, union-attr]


def _last_layer_lost(ranker: Ranker) -> None:
    ranker.stca.layers[-1].out.weight.zero_()  # type: ignore[operator, union-attr]


@pytest.mark.parametrize("breaks", [_hotter, _unscaled, _last_layer_lost])
def test_a_broken_kernel_is_further_off_than_rounding(
    model_dir: Path, golden_batch: RequestBatch, breaks: Callable[[Ranker], None]
) -> None:
    """As a fused kernel might be: its softmax too sharp, its norm's weight wrong, a layer lost."""
    ranker, _ = load_model(model_dir)
    exact = golden.float32_logits(ranker, golden_batch, CPU)
    allowed = rounding(ranker, exact, torch.bfloat16)
    with torch.no_grad():
        breaks(ranker)
    assert not compare("", in_bf16(ranker, golden_batch), exact, allowed).passed


def test_golden_requests_hold_known_items_and_no_users_history(sample_rows: Callable[..., SampleRows]) -> None:
    rows = sample_rows(3)
    batch = golden.make_requests(rows, 0)
    assert set(batch.history["item_id"].tolist()) <= set(rows.target["item_id"].tolist())
    lengths = batch.history_offsets.diff()
    assert (batch.num_requests, lengths.min(), lengths.max()) == (golden.KEPT_SIZES[0], 0, golden.KEPT_SIZES[1])
    for start, stop in zip(batch.history_offsets[:-1].tolist(), batch.history_offsets[1:].tolist(), strict=True):
        times = batch.history["time_ms"][start:stop]
        assert (times.diff() >= 0).all()
        assert (times < golden.NOW_MS).all()
    theirs = rows.history["time_ms"]
    assert not set(batch.history["time_ms"].tolist()) & set(theirs.tolist())
    again: dict[str, Tensor] = golden.make_requests(rows, 0).history
    assert all(torch.equal(again[name], values) for name, values in batch.history.items())
    assert not torch.equal(golden.make_requests(rows, 1).history["item_id"][:100], batch.history["item_id"][:100])
