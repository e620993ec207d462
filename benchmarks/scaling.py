"""Weak and strong scaling of DiT-XL/2 by `launch.py plan`: writes the tables of docs/scaling.md.

Nothing is run, and nothing measured: each line is a compiled program and peak rates (`jaxgen/parallel/hardware.py`).
"""

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "scaling.md"
CONFIG = "configs/dit.py:xl2"
ACCELERATORS = ("tpu-v5p", "h100")
WEAK = {devices: 32 * devices for devices in (8, 32, 128, 512, 2048, 4096)}
STRONG = dict.fromkeys((64, 256, 1024, 4096), 4096)
MESHES = {"data": "fsdp=1", "data x fsdp 8": "fsdp=8", "data x fsdp 4 x tensor 2": "fsdp=4,tensor=2"}


class Row(NamedTuple):
    """The figures that the command prints for one mesh."""

    state: str
    peak: str
    gathered: str
    reduced: str
    times: dict[str, tuple[str, str]]


def plan(devices: int, batch_size: int, mesh: str) -> Row:
    """Runs the command in a process of its own, whose devices it makes."""
    command = [sys.executable, "launch.py", "plan", f"--config={CONFIG}", f"--devices={devices}", f"--mesh={mesh}"]
    command += [f"--config.data.batch_size={batch_size}", "--image_shape=32,32,8", "--num_classes=1000"]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    times = {name: _times(text, name) for name in ACCELERATORS}
    return Row(
        _found(r"averages take [^,]*, ([\d.]+ \w+)", text),
        _found(r"([\d.]+ \w+) at the peak", text),
        _found(r"messages +([\d.]+ \w+) of all-gather", text),
        _found(r"messages +([\d.]+ \w+) of all-reduce", text),
        times,
    )


def _times(text: str, name: str) -> tuple[str, str]:
    """The columns `a step` and `efficiency` of an accelerator."""
    columns = re.split(r" {2,}", next(line for line in text.splitlines() if line.startswith(f"{name} ")))
    return columns[3], columns[5]


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else "none"


def table(sizes: dict[int, int], meshes: dict[str, str]) -> str:
    """A Markdown table with a line for each number of devices and mesh."""
    names = [f"{name}: a step | efficiency" for name in ACCELERATORS]
    lines = [f"| devices | batch | mesh | state | peak | gathered | reduced | {' | '.join(names)} |"]
    lines.append("|" + "---|" * (7 + 2 * len(ACCELERATORS)))
    for devices, batch_size in sizes.items():
        for name, mesh in meshes.items():
            row = plan(devices, batch_size, mesh)
            print(devices, name, row, flush=True)
            cells = [f"{devices:,}", f"{batch_size:,}", name, row.state, row.peak, row.gathered, row.reduced]
            cells += [cell for time in row.times.values() for cell in time]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Renews the tables between the page's comments."""
    text = PAGE.read_text()
    parts = {"meshes": table({64: 2048}, MESHES), "weak": table(WEAK, {"data x fsdp 8": "fsdp=8"})}
    parts["strong"] = table(STRONG, {"data x fsdp 8": "fsdp=8"})
    for name, made in parts.items():
        pattern = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda match, made=made: f"{match[1]}{made}\n{match[2]}", text, count=1, flags=re.DOTALL)
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
