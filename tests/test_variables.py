"""Every environment variable that the code reads is listed where people look for it."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("contracts", "lake", "model", "spark_jobs", "components", "operators", "dags", "longreel")
OWN = {"LONGREEL_ANSWER", "LONGREEL_REASON"}  # by which longreel_train.py hands a person's answer to its own command


def test_every_variable_is_listed_and_no_other() -> None:
    code = "\n".join(path.read_text() for package in PACKAGES for path in (REPOSITORY / package).rglob("*.py"))
    read = set(re.findall(r'"(LONGREEL_[A-Z_]+)"', code)) - OWN
    of_dags = (REPOSITORY / "dags" / "settings.py").read_text().split('"""')[1]
    of_steps = (REPOSITORY / "docs" / "cluster.md").read_text().partition("## Every environment variable")[2]
    listed = set(re.findall(r"^(?:\| `)?(LONGREEL_[A-Z_]+)", of_dags + of_steps.partition("\n## ")[0], re.MULTILINE))
    assert read == listed
