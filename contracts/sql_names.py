"""Column names in a SQL expression, found without a SQL parser."""

import re

_TOKEN = re.compile(
    r"""(?P<text>(?:(?<!\w)[rR])?(?:'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.)*"))|`(?P<quoted>(?:[^`]|``)+)`|(?<![\w.$])(?P<name>[A-Za-z_]\w*)(?!\w*\s*\()"""
)
_WORDS = frozenset(
    "and or not is null true false between in like ilike rlike case when then else end as div distinct from interval "  # noqa: SIM905
    "year years month months day days hour hours minute minutes second seconds tinyint smallint int integer bigint "
    "double float string boolean decimal numeric date timestamp timestamp_ntz timestamp_ltz binary array struct map "
    "escape any some all exists current_date current_timestamp to".split()
)


def names_in(sql: str, words: bool = False) -> set[str]:
    """The names in an expression that may be columns, in lower case: neither functions, text nor, unless `words`, words
    of SQL."""
    names = set()
    for match in _TOKEN.finditer(sql):
        name = (match["quoted"] or "").replace("``", "`") or match["name"]
        if name and (match["quoted"] or words or name.lower() not in _WORDS):
            names.add(name.lower())
    return names
