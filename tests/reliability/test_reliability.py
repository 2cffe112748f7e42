"""The page that says what faults did is the one that its commands write: `python -m tests.reliability [NAME ...]`.

The cases themselves take minutes each and are run by that command.
"""

import pytest

from tests.reliability.__main__ import CASES, PAGE, is_row, row


@pytest.mark.parametrize("name", list(CASES))
def test_the_page_says_what_is_done_and_checked(name: str) -> None:
    (line,) = [line for line in PAGE.read_text().splitlines() if is_row(CASES[name], line)]
    cells = line.split(" | ")
    assert line == row(CASES[name], cells[2]), "python -m tests.reliability NAME writes the row anew"
    assert cells[2].strip(), "nobody ran it"
