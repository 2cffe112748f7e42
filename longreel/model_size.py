"""Model size of a new home: the measured recipe with a GPU, a smaller size of it without.

The preset is the recipe for a GPU. CPU_SIZE replaces the settings of it that decide what a training costs, and those
that were measured to be better otherwise in a small model (benchmarks/extrapolation/results.md, the small run).
"""

import re
import shutil
import subprocess
from pathlib import Path

GPU_DEVICE = Path("/dev/nvidia0")
# setting of generic.toml -> its value in TOML
CPU_SIZE: dict[str, str] = {
    "epochs": "1",
    "batch_tokens": "8192",
    "window_min": "32",
    "window_mean": "256",
    "window_max": "2048",
    "window_curriculum": "1",  # a short training has too few steps to gain from it
    "learning_rate": "1e-3",
    "table_optimizer": '"rowwise_adagrad"',  # AdamW updates whole tables in every step, for .006 AUC less
    "table_learning_rate": "5e-2",
    "width": "64",
    "heads": "8",
    "layers": "2",
    "embedding_width": "32",
    "match_counts": "true",
    "dropout": "0.1",
}
CPU_ROWS = 65_536  # most rows of a table


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU; asks the driver, since PyTorch takes seconds to import."""
    if GPU_DEVICE.exists():
        return True
    command = shutil.which("nvidia-smi")
    if command is None:
        return False
    listing = subprocess.run([command, "-L"], capture_output=True, text=True, check=False)
    return listing.returncode == 0 and "GPU " in listing.stdout


def sized(text: str, gpu: bool) -> tuple[str, str]:
    """A preset's text with the settings of a machine, and a line for the user about the choice."""
    if gpu:
        return text, "model size: the measured recipe, because this machine has a GPU"
    for name, value in CPU_SIZE.items():
        text, count = re.subn(rf"^{name} = .*$", f"{name} = {value}", text, flags=re.MULTILINE)
        assert count == 1, f"the preset has {count} lines {name} = ..., expected one"
    text = re.sub(r"\brows = (\d+)", lambda match: f"rows = {min(int(match[1]), CPU_ROWS)}", text)
    choice = "model size: small, because this machine has no GPU"
    return text, f"{choice}; on one with a GPU `longreel init` writes the measured recipe"
