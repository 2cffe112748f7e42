"""Data Docs say what they are about."""

from datetime import date
from pathlib import Path

from longreel.spark_jobs.quality import Between, check


def test_a_validation_page_names_its_dataset_and_day(tmp_path: Path) -> None:
    check(tmp_path, date(2026, 11, 14), "samples", {"rows": 5}, [Between("rows", 1, None, "rows of the day")])
    docs = tmp_path / "2026-11-14" / "data-docs" / "samples"
    (page,) = (docs / "validations").rglob("*.html")
    html = page.read_text()
    assert "Validations / samples / samples-2026-11-14" in html
    assert "rows of the day" in html
    assert "samples-2026-11-14" in (docs / "index.html").read_text()
    for text in (html, (docs / "index.html").read_text()):
        assert ">None<" not in text
        assert "__none__" not in text
