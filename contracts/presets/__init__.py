"""Shipped configurations, one TOML file for each source, and the shipped gate policy."""

from importlib import resources

from longreel.contracts.errors import LongreelError


def preset(name: str) -> str:
    """The TOML text of a shipped file.

    Raises:
        LongreelError: there is none of that name.
    """
    folder = resources.files(__name__)
    names = sorted(file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml"))
    if name not in names:
        raise LongreelError(f"no preset {name!r}; expected one of {', '.join(names)}")
    return (folder / f"{name}.toml").read_text()
