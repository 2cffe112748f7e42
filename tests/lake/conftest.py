"""A lake with quarantine partitions, whose rows are the smallest."""

import sys
from pathlib import Path

# Tests are imported without packages, so what they share is found by folder.
sys.path.insert(0, str(Path(__file__).parent))
