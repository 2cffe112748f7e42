"""The size of a new home's model follows the machine: the measured recipe with a GPU, a smaller one without."""

import subprocess
import sys
from pathlib import Path

import pytest

from longreel import model_size
from longreel.cli import main
from longreel.contracts.config import Config, parse_config
from longreel.contracts.presets import preset
from longreel.lake.home import Home
from longreel.model_size import CPU_ROWS, CPU_SIZE, has_gpu, sized


def settings(text: str) -> dict[str, str]:
    lines = (line.partition(" = ") for line in text.splitlines())
    return {name: value for name, _, value in lines if value and not value.startswith("{")}


def rows(config: Config) -> list[int]:
    return [field.rows for field in config.log_schema.fields]


def test_with_a_gpu_the_preset_is_unchanged() -> None:
    text, line = sized(preset("generic"), gpu=True)
    assert text == preset("generic")
    assert "has a GPU" in line


def test_without_a_gpu_only_the_named_settings_differ_and_the_configuration_is_valid() -> None:
    text, line = sized(preset("generic"), gpu=False)
    before, after = settings(preset("generic")), settings(text)
    assert {name: after[name] for name in after if after[name] != before[name]} == CPU_SIZE
    config, full = parse_config(text), parse_config(preset("generic"))
    assert config.log_schema.match_fields == full.log_schema.match_fields  # the shape of the model stays
    assert rows(config) == [min(number, CPU_ROWS) for number in rows(full)]
    assert max(rows(full)) > CPU_ROWS
    assert config.model.width < full.model.width
    assert config.training.window_max < full.training.window_max
    assert "has no GPU" in line


@pytest.mark.parametrize(
    ("listing", "code", "expected"), [("GPU 0: NVIDIA H200", 0, True), ("", 0, False), ("", 9, False)]
)
def test_a_gpu_is_what_the_driver_lists(
    listing: str, code: int, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_size, "GPU_DEVICE", tmp_path / "nvidia0")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not has_gpu()  # no driver
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{listing}'\nexit {code}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert has_gpu() is expected
    (tmp_path / "nvidia0").touch()
    assert has_gpu()


@pytest.mark.parametrize("gpu", [True, False])
def test_init_writes_the_size_and_says_which(
    gpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log").mkdir()
    monkeypatch.setattr("longreel.init.has_gpu", lambda: gpu)
    words = ["--home", str(tmp_path / "home"), "--source", "generic", "--log", str(tmp_path / "log")]
    assert main(["init", *words]) == 0
    line, *_ = capsys.readouterr().out.splitlines()
    assert line == sized(preset("generic"), gpu)[1]
    assert Home(tmp_path / "home").config.model.layers == (4 if gpu else int(CPU_SIZE["layers"]))


def test_the_choice_loads_no_heavy_library() -> None:
    code = "import sys, longreel.init; longreel.init.has_gpu(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
