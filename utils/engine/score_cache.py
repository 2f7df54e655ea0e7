"""What a model said before, by content: no answer is scored twice and no prompt continued twice, in one evaluation or in many.

    <root>/scores/<weights, precision, code>/values-<hash>.safetensors
        digests (E, 16) uint8    which example (hash of its token ids)
        offsets (E + 1,) int64   where its tokens are
        one (N,) float32 tensor per statistic
    <root>/scores/<weights, precision, code>/texts-<hash>.json     continuations, by hash of prompt ids and limits

A file's name holds the hash of its content: one that was cut off or changed is noticed, deleted, and what it held is computed
again. The folder's name changes with any weight, with the precision, and with the code that computes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from uuid import uuid4

import torch
import transformers
from safetensors.torch import load, save
from torch import Tensor

from utils.engine.engine import Engine
from utils.fingerprint import text_hash, weights_hash
from utils.tokens.example import Example, digest

log = logging.getLogger(__name__)

SECONDS = 60  # of work that an interruption may cost


class ScoreCache:
    """Statistics of answers and continuations of prompts under the model that `engine` holds now.

    root: a folder that all processes share; None keeps everything in memory. Several processes, and several evaluations, may
    use one folder at a time: each writes files of its own.
    """

    def __init__(self, root: Path | str | None, engine: Engine):
        dtype = str(engine.dtype).removeprefix("torch.")
        rest = f"{dtype}{'-autocast' if engine.autocast else ''}{'' if engine.hide is None else f'-hide{engine.hide}'}"
        self.weights = None if root is None else weights_hash(engine.model)
        self.folder = None if root is None else Path(root) / "scores" / f"{self.weights}-{rest}-{code_hash()}"
        self._values: dict[tuple[bytes, str], Tensor] = {}
        self._texts: dict[str, str] = {}
        self._new: dict[bytes, dict[str, Tensor]] = {}
        self._new_texts: dict[str, str] = {}
        self._read: set[str] = set()
        self._flushed = time.monotonic()
        self.read()

    def knows(self, example: Example, statistics: Sequence[str]) -> bool:
        """Whether all these statistics of the example are known."""
        key = digest(example)
        return all((key, name) in self._values for name in statistics)

    def values(self, example: Example, statistics: Sequence[str]) -> Tensor:
        """(supervised tokens, S) float32. Raises KeyError for what is not known."""
        key = digest(example)
        return torch.stack([self._values[key, name] for name in statistics], dim=1)

    def add(self, example: Example, statistics: Sequence[str], values: Tensor) -> None:
        """values: (supervised tokens, S). Kept in memory at once, on disk by `keep` or `write`."""
        key = digest(example)
        for name, column in zip(statistics, values.float().cpu().unbind(dim=1), strict=True):
            self._values[key, name] = column
            self._new.setdefault(key, {})[name] = column

    def text(self, key: str) -> str | None:
        """The continuation of a prompt (`prompt_key`), or None."""
        return self._texts.get(key)

    def add_text(self, key: str, text: str) -> None:
        self._texts[key] = self._new_texts[key] = text

    def keep(self) -> None:
        """Writes what is new, once a minute."""
        if time.monotonic() - self._flushed > SECONDS:
            self.write()

    def write(self) -> None:
        """Writes what is new."""
        if self.folder is not None and self._new:
            by_names: dict[tuple[str, ...], dict[bytes, dict[str, Tensor]]] = {}
            for key, columns in self._new.items():
                by_names.setdefault(tuple(columns), {})[key] = columns
            for names, entries in by_names.items():
                self._store("values", ".safetensors", save(_as_tensors(names, entries)))
        if self.folder is not None and self._new_texts:
            self._store("texts", ".json", json.dumps(self._new_texts, ensure_ascii=False).encode("utf-8"))
        self._new, self._new_texts = {}, {}
        self._flushed = time.monotonic()

    def read(self) -> None:
        """Takes in what is on disk, also what other processes wrote since."""
        if self.folder is None or not self.folder.is_dir():
            return
        for kind, take_in in (("values-*.safetensors", self._take_values), ("texts-*.json", self._take_texts)):
            for path in sorted(self.folder.glob(kind)):
                if path.name not in self._read:
                    self._take(path, take_in)

    def _take(self, path: Path, take_in: Callable[[bytes], None]) -> None:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return  # another process found it damaged
        if path.stem.split("-")[1] == _hash(content):
            take_in(content)
            self._read.add(path.name)
        else:
            log.warning("%s is damaged; what it held is computed again", path)
            path.unlink(missing_ok=True)

    def _take_values(self, content: bytes) -> None:
        tensors = load(content)
        digests, offsets = tensors.pop("digests"), tensors.pop("offsets").tolist()
        for place, key in enumerate(digests.numpy()):
            for name, column in tensors.items():
                self._values[key.tobytes(), name] = column[offsets[place] : offsets[place + 1]]

    def _take_texts(self, content: bytes) -> None:
        self._texts |= json.loads(content.decode("utf-8"))

    def _store(self, kind: str, ending: str, content: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        target = self.folder / f"{kind}-{_hash(content)}{ending}"
        partial = target.with_name(f"{target.name}.partial-{uuid4().hex}")
        partial.write_bytes(content)
        partial.replace(target)
        self._read.add(target.name)


def prompt_key(prompt: Sequence[int], *limits: object) -> str:
    """Identifies a continuation: the prompt's ids and whatever decides where and how it ends."""
    return text_hash(repr(tuple(prompt)), *(repr(limit) for limit in limits))


@cache
def code_hash() -> str:
    """8 hex digits of the code that computes scores and continuations, and of the libraries under it."""
    sources = [path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*.py"))]
    return text_hash(*sources, torch.__version__, transformers.__version__)[:8]


def _as_tensors(names: Sequence[str], entries: dict[bytes, dict[str, Tensor]]) -> dict[str, Tensor]:
    lengths = [0, *(len(columns[names[0]]) for columns in entries.values())]
    digests = torch.frombuffer(bytearray(b"".join(entries)), dtype=torch.uint8).view(-1, 16)
    columns = {name: torch.cat([columns[name] for columns in entries.values()]) for name in names}
    return {"digests": digests, "offsets": torch.tensor(lengths).cumsum(0), **columns}


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=12).hexdigest()
