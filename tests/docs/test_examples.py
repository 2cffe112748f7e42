"""Configuration in the pages: the TOML of pages about logs is what longreel takes."""

import re
from pathlib import Path

import pytest

from longreel.contracts.config import parse_config
from longreel.contracts.log_schema import KINDS, PLACES
from longreel.contracts.log_schema_toml import setting_names
from tests.docs.pages import FENCE, ROOT, name

PAGE = ROOT / "docs" / "log-schema.md"
TOML = [
    (page, match.group(0).partition("\n")[2].rpartition("\n")[0])
    for page in (PAGE, ROOT / "docs" / "generic-log.md")
    for match in FENCE.finditer(page.read_text())
    if match.group(0).startswith("```toml")
]


@pytest.mark.parametrize(("page", "text"), TOML, ids=[name(page) for page, _ in TOML])
def test_toml_is_a_configuration(page: Path, text: str) -> None:
    if 'within = "48 h"' in text:
        text += "\n[source]\noutcome_hours = 48\n"  # which the page asks for in words
    parse_config(text, name(page))


def test_every_place_kind_and_setting_of_a_field_is_described() -> None:
    text = PAGE.read_text()
    assert not [place for place in PLACES if f"| `[fields.{place}]` |" not in text]
    kinds = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", text, re.MULTILINE))))
    assert not (set(KINDS) | set(setting_names())) - kinds
