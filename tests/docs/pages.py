"""Markdown pages of the repository, and their parts."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = (
    "docs",
    "benchmarks",
    "components",
    "contracts",
    "dags",
    "lake",
    "manifests",
    "model",
    "operators",
    "spark_jobs",
)
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.DOTALL | re.MULTILINE)


def name(page: Path) -> str:
    """A page's path from the root, as tests print it."""
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[str]:
    """The text of every fenced code block."""
    return [match.group(0).partition("\n")[2].rpartition("\n")[0] for match in FENCE.finditer(page.read_text())]


def prose(page: Path) -> list[tuple[int, str]]:
    """Numbered lines outside fenced and indented code; the line numbers are the file's."""
    text = FENCE.sub(lambda match: "\n" * match.group(0).count("\n"), page.read_text())
    lines = list(enumerate(text.split("\n"), start=1))
    return [(number, line) for number, line in lines if not line.startswith("    ") or line.lstrip()[:1] in "-*"]


def inline_code(page: Path) -> list[tuple[int, str]]:
    """Numbered `code` spans of the prose."""
    return [(number, span) for number, line in prose(page) for span in re.findall(r"`([^`]+)`", line)]
