"""One word for each thing: words that we replaced stay out of identifiers, of the code's text and of the docs."""

import ast
import io
import re
import tokenize
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, name

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("contracts", "lake", "spark_jobs", "model", "components", "operators", "dags", "longreel")
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
# This file names the words that it looks for.
TESTS = sorted(
    {path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")} - {Path(__file__)}
)

# Words that name no thing: never the whole name of a variable, an argument, a field, a function or a class.
EMPTY_NAMES = {"found", "seen", "known", "made", "said", "told", "wanted", "asked", "about", "each", "its"}

# A part of an identifier, and what the field says.
REPLACED_PARTS = {
    "abandoned": "orphaned",
    "account": "row_counts",
    "anew": "rebuild",
    "alive": "lease",
    "aside": "side_stream",
    "behaviour": "history_event, history_actions",
    "behaviours": "history_events",
    "beside": "parallel_to",
    "deltas": "increments",
    "floor": "absolute",
    "forgotten": "erased, suppressed",
    "house": "architecture",
    "judge": "evaluate, validate",
    "judged": "evaluated, validated",
    "judgement": "evaluation",
    "ladder": "eval_windows",
    "looks": "evaluation_days",
    "mend": "fix",
    "mends": "fixes",
    "nobody": "none, empty",
    "outdated": "stale",
    "parity": "consistency",
    "purge": "delete_unreferenced",
    "ragged": "jagged",
    "recipe": "training_spec",
    "repeatable": "deterministic",
    "repeats": "duplicates",
    "rival": "champion, baseline",
    "rivals": "baselines",
    "settles": "required_sample_size",
    "stones": "suppression_list",
    "sweep": "remove_orphans",
    "swept": "removed",
    "tidy": "vacuum",
    "tombstones": "suppression_list",
    "twin": "reference",
    "unjudged": "not_evaluated",
    "usual": "reference",
    "whoever": "user, caller",
    "withdraw": "drop_partition",
}

# In prose: pages, docstrings, comments, messages.
REPLACED_PROSE = {
    r"anew": "again",
    r"arrows?": "imports, lines",
    r"behaviours": "history events",
    r"exact repeats": "exact duplicates",
    r"floors?(?!\()": "layer, absolute gate, lower bound",
    r"front door": "command line",
    r"heeds?": "follows",
    r"houses?": "architecture",
    r"is said (to|of)": "name who says it",
    r"judg(e|es|ed|ing|ement|ements)": "evaluate, validate, check",
    r"ladders?": "eval windows",
    r"made[- ]up": "synthetic, golden",
    r"mend(s|ed|ing)?": "fix",
    r"nobody": "no user, no process",
    r"of (its|their|one's|his|our) own": "separate",
    r"outdated": "stale",
    r"parity": "consistency",
    r"ragged": "jagged",
    r"rivals?": "champion, baseline",
    r"rooms?": "package, space",
    r"sweeps?|swept|sweeping": "remove orphaned builds",
    r"told": "name who says it",
    r"tombstones?": "suppression list",
    r"twins?": "reference implementation",
    r"unjudged": "not evaluated",
    r"usual window": "reference window",
    r"what (it is|they are) worth": "what it brings",
    r"whoever": "the user, the caller",
}
PROSE = re.compile(rf"\b({'|'.join(REPLACED_PROSE)})\b", re.IGNORECASE)
KEPT = re.compile(r"pyarrow|\bArrow\b|Great Expectations")  # names of others

# Words that are right in one file: a key of recorded results, a term of others, a planted wrong word.
EXCEPTIONS = {
    "benchmarks/stca/check.py": {"repeats"},  # a key of results.json
}


def instead(word: str) -> str:
    """What to say for a word that PROSE matched."""
    return next(say for pattern, say in REPLACED_PROSE.items() if re.fullmatch(pattern, word, re.IGNORECASE))


def problems_of(text: str, where: str, kept: Collection[str] = ()) -> list[str]:
    """Every replaced word in a text but those kept, with the place and what to say."""
    words = [match[0] for match in PROSE.finditer(KEPT.sub("", text))]
    return [f"{where}: {word!r}; say {instead(word)}" for word in words if word.lower() not in kept]


def kept_in(path: Path) -> set[str]:
    """The words that are right in a file."""
    return EXCEPTIONS.get(path.relative_to(ROOT).as_posix(), set())


def names_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every name that a file defines: classes, functions, arguments, variables, fields."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr


def parts_of(identifier: str) -> list[str]:
    """The words of an identifier in lower case."""
    return [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", identifier)]


@pytest.mark.parametrize("path", FILES + TESTS, ids=name)
def test_identifiers(path: Path) -> None:
    names, kept = [(0, path.stem), *names_of(ast.parse(path.read_text()))], kept_in(path)
    empty = EMPTY_NAMES - kept
    problems = {f"line {line}: {word} names no thing" for line, word in names if word.strip("_") in empty}
    for line, identifier in names:
        parts = set(parts_of(identifier)) & REPLACED_PARTS.keys() - kept
        problems |= {f"line {line}: {identifier}; say {REPLACED_PARTS[part]}" for part in parts}
    assert not problems


@pytest.mark.parametrize("path", FILES + TESTS, ids=name)
def test_text_of_the_code(path: Path) -> None:
    tokens, kept = tokenize.generate_tokens(io.StringIO(path.read_text()).readline), kept_in(path)
    kinds = (tokenize.COMMENT, tokenize.STRING)
    problems = [p for t in tokens if t.type in kinds for p in problems_of(t.string, f"line {t.start[0]}", kept)]
    assert not problems


@pytest.mark.parametrize("path", FILES, ids=name)
def test_first_line_is_a_noun_phrase(path: Path) -> None:
    """An index can print it: one line, no question."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    assert text
    assert "?" not in text.splitlines()[0]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_pages(page: Path) -> None:
    lines = enumerate(page.read_text().split("\n"), start=1)
    assert not [problem for number, line in lines for problem in problems_of(line, f"line {number}")]


def test_every_exception_is_needed() -> None:
    for file, words in EXCEPTIONS.items():
        text = (ROOT / file).read_text().lower()
        assert not [word for word in words if word not in text], file


def test_the_tables_find_what_they_name() -> None:
    assert problems_of("Nobody is told of it.", "here") == [
        "here: 'Nobody'; say no user, no process",
        "here: 'told'; say name who says it",
    ]
    assert not problems_of("Apache Arrow", "here")
    assert not problems_of("Nobody", "here", {"nobody"})
    assert parts_of("JudgedDay") == ["judged", "day"]
    assert list(names_of(ast.parse("def f(found): x.told = 1"))) == [(1, "f"), (1, "found"), (1, "told")]
