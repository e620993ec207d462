"""The page docs/results.md, of which each benchmark writes one section, and parts of their tables."""

import resource
import statistics
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results.md"


def write_section(title: str, text: str) -> None:
    """Replaces the section of a title on the page, or adds it at the end."""
    before = PAGE.read_text() if PAGE.exists() else "# Results\n"
    head, *sections = before.split("\n## ")
    known = {section.partition("\n")[0]: section.partition("\n")[2] for section in sections}
    known[title] = f"\n{text.strip()}\n"
    PAGE.write_text(head.rstrip() + "\n" + "".join(f"\n## {name}\n{known[name]}" for name in known))


def wrapped(text: str) -> str:
    """Returns a paragraph as the page has it, in lines of at most 120 characters."""
    return textwrap.fill(" ".join(text.split()), 120, break_on_hyphens=False, break_long_words=False)


def cpu_seconds() -> float:
    """Returns the CPU seconds of all finished child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cell(values: list[float], form: str) -> str:
    """Returns a cell of a table: the mean of the seeds, the lowest and the highest in brackets; empty for none."""
    if not values:
        return ""
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{form.format(statistics.fmean(values))} ({low} to {high})"
