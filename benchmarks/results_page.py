"""The page docs/results.md, of which each benchmark writes one section."""

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
