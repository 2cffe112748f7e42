"""Every environment variable that the code reads is in the configuration reference, and no other."""

import re
from pathlib import Path

from longreel.reference import VARIABLES

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("contracts", "lake", "model", "spark_jobs", "components", "operators", "dags", "longreel")
# longreel_train.py hands a person's answer to its command; a step hands its exit code to the retrain that started it.
INTERNAL = {"LONGREEL_ANSWER", "LONGREEL_REASON", "LONGREEL_EXIT_CODE_FILE"}


def test_every_variable_is_listed_and_no_other() -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.name != "reference.py"]
    code = "\n".join(path.read_text() for path in files)
    read = set(re.findall(r'"(LONGREEL_[A-Z_]+)"', code)) - INTERNAL
    assert read == {name for name, _, _ in VARIABLES if name.startswith("LONGREEL_")}
