"""Where the files of the safety benchmark come from: its fixture, a folder of the user's, or pinned revisions on the Hub.

DIR/pku_saferlhf/train.jsonl, test.jsonl            or .jsonl.xz, as published in 2023
DIR/truthfulqa/TruthfulQA.csv, mc_task.json         or generation_validation.jsonl, multiple_choice_validation.jsonl
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from data.files.pku import SafeRlhf, read_pku
from data.files.sources import FIXTURES
from data.files.truthfulqa import MultipleChoice, Question, read_multiple_choice, read_truthfulqa
from utils.distributed import main_first
from utils.reading import DataError

QUESTIONS = ("TruthfulQA.csv", "generation_validation.jsonl")
CHOICES = ("mc_task.json", "multiple_choice_validation.jsonl")


@dataclass(frozen=True)
class SafetyFiles:
    """data_root: fixture, hub, or a folder. hub_files: part (train, test) -> files of PKU-SafeRLHF in its repository."""

    benchmark: str
    data_root: str
    hub: str
    revision: str
    hub_files: Mapping[str, Sequence[str]]
    truthfulqa_hub: str
    truthfulqa_revision: str

    def pku(self, part: str) -> SafeRlhf:
        """Part train or test of PKU-SafeRLHF. Raises DataError."""
        names = (f"{part}.jsonl", f"{part}.jsonl.xz")
        if self.data_root != "hub":
            return read_pku([self._local("pku_saferlhf", names)])
        return read_pku([_download(self.hub, file, self.revision, f"pku_saferlhf/{names[0]}") for file in self.hub_files[part]])

    def questions(self) -> list[Question]:
        """TruthfulQA with its answers. Raises DataError."""
        return read_truthfulqa(self._truthfulqa(QUESTIONS, "generation"))

    def choices(self) -> list[MultipleChoice]:
        """TruthfulQA as multiple choice, in an order of its own. Raises DataError."""
        return read_multiple_choice(self._truthfulqa(CHOICES, "multiple_choice"))

    def _truthfulqa(self, names: Sequence[str], configuration: str) -> Path:
        if self.data_root != "hub":
            return self._local("truthfulqa", names)
        file = f"{configuration}/validation-00000-of-00001.parquet"
        return _download(self.truthfulqa_hub, file, self.truthfulqa_revision, f"truthfulqa/{names[0]}")

    def _local(self, folder: str, names: Sequence[str]) -> Path:
        root = FIXTURES / self.benchmark if self.data_root == "fixture" else Path(self.data_root).expanduser()
        found = [root / folder / name for name in names if (root / folder / name).is_file()]
        if not found:
            raise DataError(f"data_root={self.data_root}: {root / folder} holds neither {names[0]} nor {names[1]}")
        if len(found) > 1:
            raise DataError(f"data_root={self.data_root}: both {names[0]} and {names[1]} exist in {root / folder}; remove one")
        return found[0]


def _download(hub: str, file: str, revision: str, local: str) -> Path:
    try:
        with main_first():
            return Path(hf_hub_download(hub, file, repo_type="dataset", revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DataError(
            f"data_root=hub: {hub}/{file} at revision {revision[:8]} cannot be fetched ({type(error).__name__}); give "
            f"data_root=DIR with DIR/{local}, or data_root=fixture"
        ) from error
