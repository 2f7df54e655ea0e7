"""Where rows come from: the shipped fixture, a folder of the user's, or a pinned revision on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download

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
        found = only_file(self.root, self.folder, [f"{name}{ending}" for ending in ENDINGS])
        if found is None:
            raise DataError(f"data_root={self.root}: {self.folder / name}.json does not exist{_nearest(self.folder, name)}")
        return found

    def has(self, name: str) -> bool:
        """Whether there are rows called `name`; of the Hub it is believed."""
        return self.root == "hub" or any((self.folder / f"{name}{ending}").is_file() for ending in ENDINGS)

    @property
    def folder(self) -> Path:
        """Where its files lie, unless they are on the Hub."""
        return local_root(self.root) / self.benchmark

    def check_folder(self, files: str) -> None:
        """Raises DataError if there is no such folder, saying which files of the data set belong there."""
        if not self.folder.is_dir():
            raise DataError(
                f"data_root={self.root}: there is no folder {self.folder}; put {files} of the dataset {self.hub} there, or let "
                "data_root=hub fetch them"
            )

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
    with fetching(f"{hub}/{file} at revision {revision[:8]}", local):
        return Path(hf_hub_download(hub, file, repo_type="dataset", revision=revision))


def hub_rows(hub: str, configuration: str | None, split: str, revision: str, local: str) -> list[dict]:
    """The rows of one split of a data set on the Hub. Raises DataError, naming the file `local` that may stand for it."""
    from datasets import load_dataset  # slow to import, and not needed for local files

    part = "/".join(filter(None, (configuration, split)))
    with fetching(f"{hub}, {part}, at revision {revision[:8]}", local):
        return list(load_dataset(hub, configuration, split=split, revision=revision))


@contextmanager
def fetching(what: str, local: str, instead: str = "") -> Iterator[None]:
    """The main process fetches first. Raises DataError for what cannot be had, with the file `local` that may stand for it.

    instead: what else may be done, `..., `.
    """
    try:
        with main_first():
            yield
    except (OSError, ValueError) as error:
        raise DataError(
            f"data_root=hub: {what} cannot be fetched ({type(error).__name__}); give data_root=DIR with DIR/{local}, {instead}or "
            "data_root=fixture"
        ) from error


def _nearest(folder: Path, name: str) -> str:
    if not folder.is_dir():
        return f"; the folder {folder} is missing"
    present = sorted(path.stem for path in folder.iterdir() if path.suffix in ENDINGS)
    return did_you_mean_or_all(name, present) if present else "; the folder holds no data"
