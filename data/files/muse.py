"""Where the files of MUSE come from, and what they hold: configurations with splits, as the data sets on the Hub have them.

DIR/muse/news/, DIR/muse/books/          a folder for each corpus, in it:
raw/forget, retain1, retain2, holdout    text
verbmem/forget                           prompt, gt
knowmem/forget_qa, forget_qa_icl, ...    question, answer (retain_qa, retain_qa_icl; icl: the worked examples)
privleak/forget, holdout, retain         text
scal/forget_1 ... forget_4, sust/...     text (news only)
train/forget, retain1, retain2           text (what the authors' target model was trained on)

Each is a file <split>.jsonl (or .json) with one object per line, or <split>-00000-of-00001.parquet. So a download of the whole
data set is such a folder as it stands:

    hf download muse-bench/MUSE-News --repo-type dataset --local-dir DIR/muse/news
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data.files.sources import Source
from utils.reading import FILLED, TEXT, check_rows, read_records

PARQUET = "-00000-of-00001.parquet"  # how push_to_hub names the one file of a split
FIELDS = {"verbmem": ("prompt", "gt"), "knowmem": ("question", "answer"), "privleak": ("text",)}


@dataclass(frozen=True)
class MuseFiles:
    """The files of one corpus. root: `fixture`, `hub`, or a folder DIR that holds DIR/muse/<corpus>. hub: its data set there."""

    corpus: str
    root: str
    hub: str
    revision: str

    def has(self, config: str, split: str) -> bool:
        """Whether there are rows of a split; of the Hub it is believed."""
        source = self._source(config)
        return source.has(split) or (source.folder / f"{split}{PARQUET}").is_file()

    def rows(self, config: str, split: str) -> list[dict]:
        """The rows of a split. Raises DataError naming file and row; only running text may be blank here and there."""
        path = self._path(config, split)
        kinds = dict.fromkeys(FIELDS[config], FILLED) if config in FIELDS else {"text": TEXT}
        return check_rows(path, read_records(path), kinds)

    def _path(self, config: str, split: str) -> Path:
        if self.root == "hub":
            return Source(f"muse/{self.corpus}", self.root, self.hub, self.revision).download(f"{config}/{split}{PARQUET}")
        source = self._source(config)
        source.check_folder(f"{split}.jsonl of configuration {config}")
        whole = source.folder / f"{split}{PARQUET}"
        return whole if whole.is_file() else source.file(split)

    def _source(self, config: str) -> Source:
        return Source(f"muse/{self.corpus}/{config}", self.root, self.hub, self.revision)
