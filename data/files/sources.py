"""Where rows come from: the shipped fixture, a folder of the user's, or a pinned revision on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from utils import ROOT
from utils.checks import did_you_mean_or_all
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
        folder = local_root(self.root) / self.benchmark
        found = only_file(self.root, folder, [f"{name}{ending}" for ending in ENDINGS])
        if found is None:
            raise DataError(f"data_root={self.root}: {folder / name}.json does not exist{_nearest(folder, name)}")
        return found

    def has(self, name: str) -> bool:
        """Whether there are rows called `name`; of the Hub it is believed."""
        folder = local_root(self.root) / self.benchmark
        return self.root == "hub" or any((folder / f"{name}{ending}").is_file() for ending in ENDINGS)

    def download(self, file: str) -> Path:
        """A file of the dataset on the Hub. Raises DataError if it cannot be fetched."""
        return download(self.hub, file, self.revision, f"{self.benchmark}/{file}")


def local_root(data_root: str) -> Path:
    """The folder of all benchmarks' files: the shipped one, or the user's."""
    return FIXTURES if data_root == "fixture" else Path(data_root).expanduser()


def only_file(data_root: str, folder: Path, names: Sequence[str]) -> Path | None:
    """The one file of these names that the folder holds, or None. Raises DataError if it holds two: they may differ."""
    found = [name for name in names if (folder / name).is_file()]
    if len(found) > 1:
        raise DataError(f"data_root={data_root}: both {found[0]} and {found[1]} exist in {folder}; remove one")
    return folder / found[0] if found else None


def download(hub: str, file: str, revision: str, local: str) -> Path:
    """A file of a data set on the Hub. Raises DataError if it cannot be fetched, with the file `local` that may stand for it."""
    try:
        with main_first():
            return Path(hf_hub_download(hub, file, repo_type="dataset", revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DataError(
            f"data_root=hub: {hub}/{file} at revision {revision[:8]} cannot be fetched ({type(error).__name__}); give "
            f"data_root=DIR with DIR/{local}, or data_root=fixture"
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
    return did_you_mean_or_all(name, present) if present else "; the folder holds no data"
