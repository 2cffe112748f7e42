"""Links, file names and line lengths of every Markdown page."""

import fnmatch
import re
from pathlib import Path

import pytest

from tests.docs.pages import FOLDERS, PAGES, ROOT, inline_code, name, prose

LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"[\w.*/-]+\.(?:py|md|toml|ya?ml|sh|json|png|lock|conf|env)")
DEFINED = re.compile(r"`([\w/]+\.py)`: `([\w.]+)`")  # a file, and a name that it defines
MODULE = re.compile(r"(?:longreel|benchmarks)(?:\.[a-z]\w*)+")
MEASURED = re.compile(r"extrapolation/\w+/results\.md")  # a program writes these: one finding a line
CODE_FOLDERS = (*(set(FOLDERS) - {"lake"}), "longreel", "tests", ".ci")  # `lake/` is a folder of a home, too
CHECKOUT = [str(path.relative_to(ROOT)) for folder in (*CODE_FOLDERS, "lake") for path in (ROOT / folder).rglob("*")]
CHECKOUT += [path.name for path in ROOT.iterdir()]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    headings = [line.lstrip("# ") for _, line in prose(page) if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_resolve(page: Path) -> None:
    broken = []
    for number, line in prose(page):
        for target in LINK.findall(line):
            if re.match(r"\w+:", target):
                continue
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            if not file.exists() or (anchor and anchor not in anchors(file)):
                broken.append(f"{name(page)}:{number}: {target}")
    assert not broken


def exists(file: str, page: Path) -> bool:
    """Whether a name is a file of this repository, from the root or by its last part; other names are a run's files."""
    if "/" in file and (file.split("/", maxsplit=1)[0] in CODE_FOLDERS or file.endswith(".py")):
        return any(fnmatch.fnmatch(path, file) for path in CHECKOUT) or (page.parent / file).exists()
    if "/" not in file and file.endswith((".py", ".md")):
        return any(fnmatch.fnmatch(path, f"*{file}") for path in CHECKOUT)
    return True


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_files_in_backticks_exist(page: Path) -> None:
    spans = [(number, span) for number, span in inline_code(page) if FILE.fullmatch(span)]
    folders = [(n, s) for n, s in inline_code(page) if s.endswith("/") and s.split("/")[0] in CODE_FOLDERS]
    missing = [f"{name(page)}:{number}: {span}" for number, span in spans if not exists(span, page)]
    missing += [f"{name(page)}:{number}: {span}" for number, span in folders if not (ROOT / span).is_dir()]
    assert not missing


def module_exists(dotted: str) -> bool:
    """Whether a dotted name begins with a module, at most one attribute behind it."""
    *package, last = dotted.split(".")
    base = ROOT.joinpath(*package)
    if (base / f"{last}.py").is_file() or (base / last / "__init__.py").is_file() or (base / last).is_dir():
        return True
    file = base.with_suffix(".py") if base.with_suffix(".py").is_file() else base / "__init__.py"
    return file.is_file() and re.search(rf"\b{last}\b", file.read_text()) is not None


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_modules_exist(page: Path) -> None:
    modules = [(n, dotted) for n, line in prose(page) for dotted in MODULE.findall(line) if not FILE.search(dotted)]
    missing = [f"{name(page)}:{number}: {dotted}" for number, dotted in modules if not module_exists(dotted)]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_names_after_a_file_are_defined_there(page: Path) -> None:
    pairs = [(number, *pair) for number, line in prose(page) for pair in DEFINED.findall(line)]
    missing = []
    for number, file, dotted in pairs:
        last = dotted.split(".")[-1]
        if not re.search(rf"^\s*(?:(?:def|class) {last}\b|{last}\b.*=)", (ROOT / file).read_text(), re.MULTILINE):
            missing.append(f"{name(page)}:{number}: {file} defines no {dotted}")
    assert not missing


@pytest.mark.parametrize("page", [page for page in PAGES if not MEASURED.search(name(page))], ids=name)
def test_lines_are_short(page: Path) -> None:
    """Prose breaks at 120 characters; a table row or a picture is one line, and a link's target does not count."""
    text = [(n, re.sub(r"\]\([^)]*\)", "]", line)) for n, line in prose(page) if not line.startswith(("|", "!", "#"))]
    long = [f"{name(page)}:{number}: {len(line)}" for number, line in text if len(line) > 120 and "http" not in line]
    assert not long


def test_tests_in_backticks_exist() -> None:
    """Of a table in reliability.md, a test without a file is one of the file above it."""
    file, missing = ROOT, []
    for number, span in inline_code(ROOT / "docs" / "reliability.md"):
        if match := re.fullmatch(r"(?:([\w/]+\.py)::)?(test_\w+)", span):
            file = ROOT / "tests" / match[1] if match[1] else file
            if not re.search(rf"^def {match[2]}\(", file.read_text(), re.MULTILINE):
                missing.append(f"line {number}: {span} in {file.name}")
    assert not missing
