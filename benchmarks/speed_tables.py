"""The tables and the plot of `benchmarks/speed.py`, of the rows of benchmarks/results/speed.json."""

import statistics
from pathlib import Path
from typing import Any

MODES = ("eager", "channels_last", "compile")
GPU_MODES = ("channels_last", "compile")
COLUMNS = {"cpu": MODES, "gpu": (*GPU_MODES, "official")}
"""The peers of each kind of device: forms of PyTorch, and official code."""
TITLES = {"cpu": "Speed", "gpu": "Speed on a GPU"}
NAMES = {"cpu": "speed", "gpu": "speed_gpu"}
"""Of the files of results and plots."""

LEGEND = """Made by `python benchmarks/speed.py`: {hardware}, float32; each row is one run, in which jaxgen and PyTorch
took turns: median images/s of {rounds} rounds (least to greatest). PyTorch runs the same networks, with equally many
parameters, written plainly in `benchmarks/peers`: eager, with its channels last, and compiled, each with the optimizer,
average and clipping of the config. The ratio is that of jaxgen's median to the greatest median of these. `of product`
is the rate of jaxgen's training step relative to a product of two float32 matrices of 1,536 rows; operations are those
of products and convolutions alone, counted from their shapes in PyTorch's network. `load` is how many processes ran in
the minute before, those of the row before among them: where others run, threads of PyTorch wait for each other.

unet8, unet16 and unet32 are the class-conditional U-Nets of `ddpm:digits` and `ddpm:shapes`, which sample by 10 steps
of DDIM, and unet64 a narrower one with a level more; dit_s2 is `sit:shapes` with the network DiT-S/2 on 32x32x4 latents
and 1,000 classes, by 2 steps of Euler; dcgan, vae, sngan (at half of its widths) and stylegan2 are those configs'
variants `shapes`, glow and pixelcnnpp the variants `cifar10` with fewer and narrower layers
(`benchmarks/speed_cases.py`). A step of sngan has 5 batches of the discriminator, of which the figures count one. In
every fourth step of stylegan2 the discriminator has R1; PyTorch takes it by the network that is not compiled, since
`torch.compile` has no second derivatives. Samples of pixelcnnpp are not timed: plain PyTorch takes a pass of the
network for each of 1,024 pixels.
"""

START = """Peak memory is the most that each process has held at a time, its start and compilation included. That of the
program is the memory of jaxgen's compiled training step by the compiler's own account: arguments, results and what lies
between. Seconds of compilation are those of jaxgen's programs of training and sampling. The first step ends that long
after its process has started: imports, initial weights, compilation with no cache, one step; without a data pipeline.
"""


GPU_LEGEND = """Made by `python benchmarks/speed.py --on gpu --official DIR`: {hardware}; each row is one run, in which
jaxgen and PyTorch took turns: median images/s of {rounds} rounds (least to greatest). Parameters are float32, networks
compute in bfloat16, in PyTorch by autocast; the ratio is that of jaxgen's median to the greatest median of PyTorch's.
PyTorch has its channels last in both forms, a fused Adam, and cuDNN's search for algorithms; `torch.compile` has its
default mode. Official code has its own precision. `of product` is relative to a product of two bfloat16 matrices of
8,192 rows. Memory is that of the GPU.

ddpm_cifar10 is the U-Net of `ddpm:cifar10`, told the class; edm_cifar10 is `edm:cifar10` without its augmentation, and
its peer the network of the official code; dit_b2 and dit_xl2 are transformers on 32x32x4 latents with 1,000 classes
(`benchmarks/speed_cases.py`). Sampling is not timed.
"""


def page(contents: dict[str, Any], device: str = "cpu") -> str:
    """Returns the legend and Markdown tables with one row a model and version of JAX."""
    rows, legend = contents["rows"], {"cpu": LEGEND, "gpu": GPU_LEGEND}[device]
    lines = [legend.format(hardware=contents["hardware"], rounds=contents["rounds"])]
    if not all(set(row["images_per_second"]) - {"jaxgen"} for row in rows.values()):
        lines.append("Rows without a ratio are of environments without PyTorch.\n")
    for run, title in (("train", "Training, images/s"), ("sample", "Sampling, images/s")):
        if any(run in row["images_per_second"]["jaxgen"] for row in rows.values()):
            lines += [f"{title}:", "", *rows_of(rows, run, COLUMNS[device]), ""]
    lines += [f"{name}: {row['note']}\n" for name, row in rows.items() if "note" in row]
    measured = {name: row for name, row in rows.items() if "first_step" in row}
    if measured:
        lines += [START, *start_rows(measured, COLUMNS[device]), ""]
    if any(ratio(row, "train") for row in rows.values()):
        image = f"images/{NAMES[device]}.png"
        lines.append(f"![Ratios of images/s, jaxgen's to those of the fastest form of PyTorch]({image})")
    return "\n".join(lines)


def rows_of(rows: dict[str, dict[str, Any]], run: str, modes: tuple[str, ...] = MODES) -> list[str]:
    """Returns the lines of the table of training or of sampling."""
    titles = ["model", "jaxlib", "parameters", "batch", "jaxgen", *(f"torch {mode}" for mode in modes), "ratio"]
    titles += ["of product", "compilation, s", "load"] if run == "train" else ["compilation, s", "load"]
    lines = _head(titles)
    for row in rows.values():
        speeds = {name: runs[run] for name, runs in row["images_per_second"].items() if run in runs}
        if not speeds:
            continue
        ours = statistics.median(speeds["jaxgen"])
        cells = [row["model"], row["versions"]["jaxlib"], f"{row['parameters']:,}", str(row["batch"])]
        cells += [spread(speeds.get(name, [])) for name in ("jaxgen", *modes)]
        compared = ratio(row, run)
        cells.append(f"{compared:.2f}" if compared else "")
        if run == "train":
            product = statistics.median(row["images_per_second"]["jaxgen"]["product"])
            flops = row["flops"].get("train", 0) / (row["batch"] * row.get("steps", 1))
            cells.append(f"{ours * flops / product:.0%}" if flops else "")
        cells += [f"{row['compilation'][run]:.0f}", f"{row['load']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def start_rows(rows: dict[str, dict[str, Any]], modes: tuple[str, ...] = MODES) -> list[str]:
    """Returns the lines of the table of memory and of the time to the first step."""
    names = ["jaxgen", *(f"torch {mode}" for mode in modes)]
    titles = ["model", "jaxlib", *(f"peak memory, GiB: {name}" for name in names), "the program"]
    lines = _head([*titles, "compilation, s", *(f"first step, s: {name}" for name in names)])
    for row in rows.values():
        cells = [row["model"], row["versions"]["jaxlib"]]
        cells += [_cell(row["peak_memory"].get(name), 2**30, 2) for name in ("jaxgen", *modes)]
        cells += [_cell(row["program_memory"], 2**30, 2), _cell(sum(row["compilation"].values()), 1, 0)]
        cells += [_cell(row["first_step"].get(name), 1, 1) for name in ("jaxgen", *modes)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def ratio(row: dict[str, Any], run: str) -> float | None:
    """Returns jaxgen's median images/s over the greatest of PyTorch's; None where one of them is missing."""
    speeds = {name: statistics.median(runs[run]) for name, runs in row["images_per_second"].items() if run in runs}
    peers = [speed for name, speed in speeds.items() if name != "jaxgen"]
    return speeds["jaxgen"] / max(peers) if peers else None


def spread(values: list[float]) -> str:
    """Returns the median, the least and the greatest value; empty for none."""
    if not values:
        return ""
    low, middle, high = (
        f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"
        for value in (min(values), statistics.median(values), max(values))
    )
    return f"{middle} ({low} to {high})"


def plot(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Draws the ratios of training and of sampling, a pair of bars for each row that has them; nothing for no row."""
    compared = {name: row for name, row in rows.items() if ratio(row, "train")}
    if not compared:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(7.0, 0.8 + 0.42 * len(compared)))
    for offset, run, color in ((-0.19, "train", "tab:blue"), (0.19, "sample", "tab:orange")):
        values = [ratio(row, run) or 0.0 for row in compared.values()]
        axis.barh([i + offset for i in range(len(values))], values, 0.36, label=run, color=color)
    axis.axvline(1.0, color="black", linewidth=1)
    axis.set_yticks(range(len(compared)), list(compared), fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("images/s, jaxgen's over those of the fastest form of PyTorch", fontsize=8)
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _head(titles: list[str]) -> list[str]:
    return ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]


def _cell(value: float | None, unit: float, digits: int) -> str:
    return "" if value is None else f"{value / unit:.{digits}f}"
