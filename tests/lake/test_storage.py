"""Small files are created once, by one of several writers."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from longreel.lake.storage import Storage


@pytest.mark.parametrize("links", [True, False])
def test_of_several_that_create_a_file_once_one_wins_and_all_get_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:

        def refuse(*_: object) -> None:
            raise OSError("no hard links here")

        monkeypatch.setattr(Path, "hardlink_to", refuse)
    storage = Storage(tmp_path / "lake")
    path = storage.path("there", "file")
    barrier = Barrier(8)

    def create(n: int) -> str:
        barrier.wait()
        return storage.create_once(path, f"number {n}")

    with ThreadPoolExecutor(8) as pool:
        texts = set(pool.map(create, range(8)))
    assert storage.read_text(path) in texts
    if links:
        assert len(texts) == 1
    assert storage.create_once(path, "late") == storage.read_text(path) != "late"
    assert [file.name for file in (tmp_path / "lake/there").iterdir()] == ["file"]
