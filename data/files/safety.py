"""Where the files of the safety benchmark come from: its fixture, a folder of the user's, or pinned revisions on the Hub.

DIR/pku_saferlhf/train.jsonl, test.jsonl            or .jsonl.xz, as published in 2023
DIR/truthfulqa/TruthfulQA.csv, mc_task.json         or generation_validation.jsonl, multiple_choice_validation.jsonl
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.files.pku import SafeRlhf, read_pku
from data.files.sources import download, local_root, only_file
from data.files.truthfulqa import MultipleChoice, Question, read_multiple_choice, read_truthfulqa
from utils.reading import DataError


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
        return read_pku([download(self.hub, file, self.revision, f"pku_saferlhf/{names[0]}") for file in self.hub_files[part]])

    def questions(self) -> list[Question]:
        """TruthfulQA with its answers. Raises DataError."""
        return read_truthfulqa(self._truthfulqa("TruthfulQA.csv", "generation"))

    def choices(self) -> list[MultipleChoice]:
        """TruthfulQA as multiple choice, in an order of its own. Raises DataError."""
        return read_multiple_choice(self._truthfulqa("mc_task.json", "multiple_choice"))

    def _truthfulqa(self, name: str, configuration: str) -> Path:
        if self.data_root != "hub":
            return self._local("truthfulqa", (name, f"{configuration}_validation.jsonl"))
        file = f"{configuration}/validation-00000-of-00001.parquet"
        return download(self.truthfulqa_hub, file, self.truthfulqa_revision, f"truthfulqa/{name}")

    def _local(self, folder: str, names: Sequence[str]) -> Path:
        root = local_root(self.data_root) / (self.benchmark if self.data_root == "fixture" else "") / folder
        found = only_file(self.data_root, root, names)
        if found is None:
            raise DataError(f"data_root={self.data_root}: {root} holds neither {names[0]} nor {names[1]}")
        return found
