"""What a model said before, by content: no answer is forwarded twice and no prompt continued twice, in one run or in many.

    <root>/<weights>-<how they compute>/values-<hash>.safetensors
        digests (E, 16) uint8    which example (hash of its token ids)
        offsets (E + 1,) int64   where its tokens are
        one (N,) float32 tensor per statistic; hidden (N, H) where hidden states were asked for too
    <root>/<weights>-<how they compute>/texts-<hash>.json     continuations, by hash of prompt ids and limits

The folder's name changes with all that changes a value (`cache_key`). A file's name holds the hash of its content: one that was
cut off or changed is noticed, deleted, and what it held is computed again. Each file is hashed once per process start, or in one
of the processes that share the folder; its numbers stay on disk, mapped into memory, and only what is asked for is read. How
large all folders may be together: utils/cache_limit.py.
"""

from __future__ import annotations

import json
import logging
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import peft
import torch
import transformers
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from utils.cache_limit import touch, use
from utils.distributed import barrier, from_main, gathered, is_main, rank, world_size
from utils.engine.engine import Engine
from utils.fingerprint import code_hash, file_hash, settings_hash, weights_hash
from utils.tokens.example import Example, digest

log = logging.getLogger(__name__)

SECONDS = 60  # of work that an interruption may cost
FILE_BYTES = 2**28  # of values that wait in memory to be written
HIDDEN = "hidden"
VALUES, TEXTS = "values-*.safetensors", "texts-*.json"
# Where a model or an adapter came from, which version wrote it, whether it is to train: none of these changes what it computes.
ORIGIN = frozenset(
    "_name_or_path _commit_hash transformers_version base_model_name_or_path revision peft_version inference_mode".split()
)

Stamp = tuple[str, int, int, int]
_whole: set[Stamp] = set()  # files that were found whole, or written, since this process started


class TokenCache:
    """Statistics and hidden states of answers, and continuations of prompts, under the model that `engine` holds now.

    root: a folder that all processes share; None keeps everything in memory. Several processes, and several runs, may use one
    folder at a time: each writes files of its own. adapters=False: of the model under a fresh adapter, which changes nothing yet
    and whose random half differs from run to run. The processes of one run make it, `read` and `share` together.
    """

    def __init__(self, root: Path | str | None, engine: Engine, adapters: bool = True):
        self.weights = None if root is None else weights_hash(engine.model, adapters)
        self.folder = None if root is None else Path(root) / f"{self.weights}-{cache_key(engine, adapters)}"
        self._columns: dict[tuple[bytes, str], tuple[Tensor, int, int]] = {}  # where an example's numbers are
        self._texts: dict[str, str] = {}
        self._new: dict[bytes, dict[str, Tensor]] = {}
        self._new_texts: dict[str, str] = {}
        self._read: set[str] = set()
        self._waiting, self._written = 0, time.monotonic()
        if self.folder is not None and is_main():
            with suppress(OSError):  # somebody else's folder: what is in it can be read all the same
                weakref.finalize(self, use(self.folder).remove)
        self.read()

    def knows(self, example: Example, names: Sequence[str]) -> bool:
        """Whether all these statistics of the example are known; `hidden` may be one of them."""
        key = digest(example)
        return all((key, name) in self._columns for name in names)

    def values(self, example: Example, names: Sequence[str]) -> Tensor:
        """(supervised tokens, S) float32. Raises KeyError for what is not known."""
        return torch.stack([self._column(example, name) for name in names], dim=1)

    def hidden(self, example: Example) -> Tensor:
        """(supervised tokens, H) last hidden states in the model's dtype, not to be written to. Raises KeyError if not known."""
        return self._column(example, HIDDEN)

    def add(self, example: Example, names: Sequence[str], values: Tensor, hidden: Tensor | None = None) -> None:
        """values: (supervised tokens, S); hidden: (supervised tokens, H). Known at once, on disk by `keep`, `write`, `share`."""
        columns = dict(zip(names, values.float().cpu().unbind(dim=1), strict=True))
        if hidden is not None:
            columns[HIDDEN] = hidden.cpu()
        self._new.setdefault(digest(example), {}).update(columns)
        self._remember(digest(example), columns)
        self._waiting += sum(column.nbytes for column in columns.values())

    def text(self, key: str) -> str | None:
        """The continuation of a prompt (`prompt_key`), or None."""
        return self._texts.get(key)

    def add_text(self, key: str, text: str) -> None:
        """Known at once, on disk by `keep`, `write` or `share`."""
        self._texts[key] = self._new_texts[key] = text

    def keep(self) -> None:
        """Writes what is new, once a minute and whenever it is much."""
        if time.monotonic() - self._written > SECONDS or self._waiting > FILE_BYTES:
            self.write()

    def write(self) -> None:
        """Writes what is new."""
        if self.folder is None:
            return
        alike: dict[tuple[str, ...], dict[bytes, dict[str, Tensor]]] = {}
        for key, columns in self._new.items():
            alike.setdefault(tuple(sorted(columns)), {})[key] = columns
        for names, entries in alike.items():
            self._store(self.folder, VALUES, partial(save_file, _as_tensors(names, entries)))
        if self._new_texts:
            texts = json.dumps(self._new_texts)
            self._store(self.folder, TEXTS, lambda path: path.write_text(texts, encoding="utf-8"))
        self._new, self._new_texts = {}, {}
        self._waiting, self._written = 0, time.monotonic()

    def read(self) -> None:
        """Takes in what is on disk, also what others wrote since; deletes what is damaged."""
        if self.folder is None:
            return
        listed = from_main([path.name for kind in (VALUES, TEXTS) for path in sorted(self.folder.glob(kind))])
        # What one process found whole, or wrote, is whole for all of them.
        whole = set(gathered([*self._read, *(name for name in listed if _was_whole(self.folder / name))]))
        mine = [name for name in listed if name not in whole][rank() :: world_size()]
        whole |= set(gathered([name for name in mine if _is_whole(self.folder / name)]))
        for name in sorted(whole - self._read):
            self._open(self.folder / name)

    def share(self) -> None:
        """From here on each process of the run knows what any of them added."""
        if self.folder is not None:
            self.write()
            barrier()
            self.read()
            return
        for key, columns in gathered(list(self._new.items())):
            self._remember(key, columns)
        self._texts |= dict(gathered(list(self._new_texts.items())))
        self._new, self._new_texts, self._waiting = {}, {}, 0

    def _column(self, example: Example, name: str) -> Tensor:
        column, first, last = self._columns[digest(example), name]
        return column[first:last]

    def _remember(self, key: bytes, columns: Mapping[str, Tensor]) -> None:
        for name, column in columns.items():
            self._columns[key, name] = (column, 0, len(column))

    def _store(self, folder: Path, kind: str, save: Callable[[Path], Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        unnamed = folder / f"partial-{uuid4().hex}"
        try:
            save(unnamed)
            path = unnamed.replace(folder / kind.replace("*", file_hash(unnamed)))
        finally:
            unnamed.unlink(missing_ok=True)
        self._open(path)

    def _open(self, path: Path) -> None:
        if path.suffix == ".json":
            self._texts |= json.loads(path.read_text(encoding="utf-8"))
        else:
            with safe_open(path, "pt") as file:
                columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dictionary)
            digests, offsets = columns.pop("digests").numpy(), columns.pop("offsets").tolist()
            for number, key in enumerate(digests):
                for name, column in columns.items():
                    self._columns[key.tobytes(), name] = (column, offsets[number], offsets[number + 1])
        self._read.add(path.name)
        touch(path)
        _whole.add(_stamp(path))


def cache_key(engine: Engine, adapters: bool) -> str:
    """What decides, besides the weights, what a model says: precision, mask rule, device; and as a hash the configuration of the
    model with its attention kernel, that of its adapters unless they are left out, the libraries and the code that computes.

    The code is that of this room and of the modules that the model's classes come from, with all that they import.
    """
    precision = str(engine.dtype).removeprefix("torch.") + ("-autocast" if engine.autocast else "")
    hidden_ids = "" if engine.hide is None else f"-hide{engine.hide}"
    room = {f"{__package__}.{path.stem}" for path in Path(__file__).parent.glob("[!_]*.py")}
    rest = {
        "models": list(_configurations(engine.model, adapters)),
        "libraries": [torch.__version__, transformers.__version__, peft.__version__],
        "code": code_hash(frozenset(room | {type(module).__module__ for module in engine.model.modules()})),
    }
    return f"{precision}{hidden_ids}-{engine.device.type}-{settings_hash(_without_origin(rest))}"


def _configurations(model: torch.nn.Module, adapters: bool) -> Iterator[list[Any]]:
    """Of every model in the model: one may be made of two, or lie within adapters."""
    for part in model.modules():
        if isinstance(part, PreTrainedModel):
            yield [f"{type(part).__module__}.{type(part).__qualname__}", part.config._attn_implementation, part.config.to_dict()]
        elif isinstance(part, PeftModel) and adapters:
            yield [config.to_dict() for config in part.peft_config.values()]


def _without_origin(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _without_origin(inner) for key, inner in value.items() if key not in ORIGIN}
    if isinstance(value, set | frozenset):
        return sorted(str(inner) for inner in value)
    return [_without_origin(inner) for inner in value] if isinstance(value, list | tuple) else value


def _as_tensors(names: Sequence[str], entries: Mapping[bytes, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    lengths = [0, *(len(columns[names[0]]) for columns in entries.values())]
    digests = torch.frombuffer(bytearray(b"".join(entries)), dtype=torch.uint8).view(-1, 16)
    columns = {name: torch.cat([columns[name] for columns in entries.values()]) for name in names}
    return {"digests": digests, "offsets": torch.tensor(lengths).cumsum(0), **columns}


def _is_whole(path: Path) -> bool:
    """Whether the file's content is what its name says; if not, it is deleted."""
    try:
        if file_hash(path) == path.stem.split("-")[1]:
            return True
    except FileNotFoundError:
        return False  # another run found it damaged
    log.warning("%s is damaged; what it held is computed again", path)
    path.unlink(missing_ok=True)
    return False


def _was_whole(path: Path) -> bool:
    """Whether this process knows that already."""
    try:
        return _stamp(path) in _whole
    except FileNotFoundError:
        return False


def _stamp(path: Path) -> Stamp:
    """Identifies a file as it is now."""
    state = path.stat()
    return path.name, state.st_ino, state.st_size, state.st_mtime_ns
