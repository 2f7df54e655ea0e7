"""What the scripts that make fixtures share: writing the files, and the command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path

FIXTURES = Path(__file__).resolve().parent.parent / "data" / "fixtures"

Content = str | list
"""Text as it is, or rows: one JSON object per line in .jsonl, one list in .json."""


def write_files(files: Mapping[str, Content], out: Path) -> None:
    """Every file by its path below `out`; UTF-8, newline at the end of rows."""
    for name, content in files.items():
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(as_text(name, content).encode("utf-8"))


def as_text(name: str, content: Content) -> str:
    """A file's text; the ending of its name says how rows are written."""
    if isinstance(content, str):
        return content
    if name.endswith(".jsonl"):
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def command(fixture: str, description: str, build_files: Callable[[], Mapping[str, Content]]) -> None:
    """`python scripts/make_<fixture>_fixture.py [--out DIR]`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=FIXTURES / fixture, help="folder of the files")
    arguments = parser.parse_args()
    files = build_files()
    write_files(files, arguments.out)
    print(f"{len(files)} files in {arguments.out}")
