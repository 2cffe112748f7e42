"""Generated reference pages: current, and complete."""

import pytest

from longreel import reference


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return reference.pages()


@pytest.mark.parametrize("name", ["commands.md", "configuration.md"])
def test_page_is_current(pages: dict[str, str], name: str) -> None:
    assert (reference.FOLDER / name).read_text() == pages[name], f"run `make reference`: {name} is stale"


def test_every_setting_has_a_meaning_and_every_option_a_help_text(pages: dict[str, str]) -> None:
    rows = [line for page in pages.values() for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) > 150
    assert not [row for row in rows if not row.split(" | ")[1].strip()]
