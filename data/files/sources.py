"""Where rows come from: the shipped fixture, a folder of the user's, or a pinned revision on the Hugging Face Hub."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from utils import ROOT
from utils.distributed import main_first
from utils.reading import DataError

FIXTURES = ROOT / "data" / "fixtures"
ENDINGS = (".json", ".jsonl")


@dataclass(frozen=True)
class Source:
    """One benchmark's files. root: `fixture`, `hub`, or a folder DIR that holds DIR/<benchmark>/<file>.json."""

    benchmark: str
    root: str
    hub: str
    revision: str

    def file(self, name: str) -> Path:
        """Path of the rows called `name`. Raises DataError saying where it looked."""
        if self.root == "hub":
            return self.download(f"{name}.json")
        folder = (FIXTURES if self.root == "fixture" else Path(self.root).expanduser()) / self.benchmark
        found = [folder / f"{name}{ending}" for ending in ENDINGS if (folder / f"{name}{ending}").is_file()]
        if len(found) > 1:
            raise DataError(f"data_root={self.root}: both {found[0].name} and {found[1].name} exist in {folder}; remove one")
        if not found:
            raise DataError(f"data_root={self.root}: {folder / name}.json does not exist{_nearest(folder, name)}")
        return found[0]

    def has(self, name: str) -> bool:
        """Whether there are rows called `name`; of the Hub it is believed."""
        folder = (FIXTURES if self.root == "fixture" else Path(self.root).expanduser()) / self.benchmark
        return self.root == "hub" or any((folder / f"{name}{ending}").is_file() for ending in ENDINGS)

    def download(self, file: str) -> Path:
        """A file of the dataset on the Hub. Raises DataError if it cannot be fetched."""
        try:
            with main_first():
                return Path(hf_hub_download(self.hub, file, repo_type="dataset", revision=self.revision))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
            raise DataError(
                f"data_root=hub: {self.hub}/{file} at revision {self.revision[:8]} cannot be fetched "
                f"({type(error).__name__}); give data_root=DIR with DIR/{self.benchmark}/{file}, or data_root=fixture"
            ) from error


def check_rows(path: Path | str, rows: Sequence[dict], texts: Sequence[str], lists: dict[str, int | None]) -> None:
    """Raises DataError unless every row holds the non-empty strings `texts` and the lists of strings `lists` (name -> length)."""
    for number, row in enumerate(rows, start=1):
        for field in (*texts, *lists):
            if field not in row:
                raise DataError(f"{path}, row {number}: field {field} is missing; the row has {', '.join(sorted(row))}")
        for field in texts:
            if not isinstance(row[field], str) or not row[field].strip():
                raise DataError(f"{path}, row {number}: {field} is empty or not a string: {row[field]!r}")
        for field, length in lists.items():
            _check_list(path, number, field, row[field], length)


def _check_list(path: Path | str, number: int, field: str, values: object, length: int | None) -> None:
    if not isinstance(values, list) or (length is not None and len(values) != length):
        got = len(values) if isinstance(values, list) else f"a {type(values).__name__}"
        raise DataError(f"{path}, row {number}: {field} needs {length} strings, got {got}")
    for place, value in enumerate(values, start=1):
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{path}, row {number}: {field} number {place} is empty or not a string: {value!r}")


def _nearest(folder: Path, name: str) -> str:
    if not folder.is_dir():
        return f"; the folder {folder} is missing"
    present = sorted(path.stem for path in folder.iterdir() if path.suffix in ENDINGS)
    close = difflib.get_close_matches(name, present, 3, 0.5)
    return f". Did you mean {' or '.join(close)}?" if close else f"; the folder holds {', '.join(present) or 'no data'}"
