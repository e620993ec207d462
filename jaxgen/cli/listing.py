"""`launch.py list`: configs, data sets, samplers, losses and so on, a line each."""

from jaxgen.cli.program import program
from jaxgen.core.config import did_you_mean
from jaxgen.runs import catalog
from jaxgen.runs.catalog import Item


def text(name: str = "") -> str:
    """Returns the list of one kind of things, or of all kinds if none is named.

    Raises:
      ValueError: if there is no such kind.
    """
    if name and name not in catalog.KINDS:
        parts = ", ".join(catalog.KINDS)
        raise ValueError(f"There is no list of {name!r}; there are {parts}.{did_you_mean(name, catalog.KINDS)}")
    if name:
        return "\n".join(_lines(name, whole=True))
    lists = ["\n".join(_lines(part, whole=False)) for part in catalog.KINDS]
    return "\n\n".join([*lists, f"One kind alone, and the variants of configs line by line: {program()} list configs"])


def _lines(name: str, *, whole: bool) -> list[str]:
    """Returns a line for each of a kind, not wrapped, for `grep`; of configs, for each variant if it is shown alone."""
    part = catalog.KINDS[name]
    lines = [f"{name}: {part.title}"]
    rows: list[tuple[str, str]] = []
    for entry in part.find():
        rows.append((entry.name, entry.about if whole else _with_variants(entry)))
        if whole:
            rows += [(f"  {variant.name}", variant.about) for variant in entry.variants]
    width = max(len(label) for label, _ in rows)
    return lines + [f"  {label.ljust(width)}  {about}".rstrip() for label, about in rows]


def _with_variants(entry: Item) -> str:
    if not entry.variants:
        return entry.about
    names = ", ".join(variant.name.partition(":")[2] for variant in entry.variants)
    return f"{entry.about} Variants: {names}."
