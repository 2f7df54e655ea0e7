"""Reference values on disk, addressed by content, so that all runs of a sweep share them.

    <root>/<hash of weights and dtype>/values-<hash of what it holds>.safetensors
        digests (E, 16) uint8    which example (hash of its token ids)
        offsets (E + 1,) int64   where its tokens are in logp and hidden
        logp (N,) float32        log-probability of every answer token
        hidden (N, H)            last hidden states that predict them; only in files of kind "hidden"

Files are written under another name and renamed, so a file that exists is whole; one that cannot be read is deleted and
made anew.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from utils.distributed import barrier, rank, world_size
from utils.engine.engine import Engine
from utils.fingerprint import weights_hash
from utils.tokens.example import Example, digest

log = logging.getLogger(__name__)

TOKENS_PER_BATCH = 4096
TOKENS_PER_FILE = 2**18


class ReferenceCache:
    """Log-probabilities, and hidden states where asked for, of examples under the model that `engine` holds now."""

    def __init__(self, root: Path, engine: Engine, with_adapter: bool = False):
        self.engine = engine
        self.width = engine.head.weight.shape[1]
        self.dtype = engine.dtype
        dtype = str(engine.dtype).removeprefix("torch.")
        autocast = "-autocast" if engine.autocast else ""
        # A fresh adapter changes nothing yet, and its random half differs from run to run; a continued one is part of the model.
        hidden_eos = "" if engine.hide is None else f"-hide{engine.hide}"
        self.folder = Path(root) / f"{weights_hash(engine.model, adapters=with_adapter)}-{dtype}{autocast}{hidden_eos}"
        self._where: dict[tuple[bytes, str], tuple[safe_open, int, int]] = {}

    def fill(self, examples: dict[str, Sequence[Example]], with_hidden: Collection[str]) -> None:
        """Computes what is missing on disk, each process its share, and opens the files."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._open()
        hidden = {example for stream in with_hidden for example in examples[stream]}
        logp = {example for stream in examples for example in examples[stream]} - hidden
        todo = [(e, "hidden") for e in hidden if (digest(e), "hidden") not in self._where]
        todo += [(e, "logp") for e in logp if (digest(e), "logp") not in self._where]
        todo.sort(key=lambda job: (job[1], len(job[0].prompt) + len(job[0].answer), digest(job[0])))
        # Whose job an example is goes by its digest: processes, and other runs, may find different files when they look.
        self._compute([job for job in todo if int.from_bytes(digest(job[0])[:4]) % world_size() == rank()])
        barrier()
        self._open()

    def logp(self, example: Example) -> Tensor:
        """(supervised tokens,) float32. Raises KeyError for an example that `fill` was not given."""
        source, start, stop = self._find(example, "logp")
        return source.get_slice("logp")[start:stop]

    def hidden(self, example: Example) -> Tensor:
        """(supervised tokens, H) in the model's dtype."""
        source, start, stop = self._find(example, "hidden")
        return source.get_slice("hidden")[start:stop]

    def _find(self, example: Example, kind: str):
        return self._where[(digest(example), kind)]

    def _compute(self, todo: Sequence[tuple[Example, str]]) -> None:
        waiting: list[tuple[Example, Tensor, Tensor | None]] = []
        kind_of_waiting = None
        for kind, batch in tqdm(list(_batches(todo)), desc="reference", unit="batch", disable=rank() != 0 or not todo):
            if waiting and (kind != kind_of_waiting or sum(len(w[0]) for w in waiting) > TOKENS_PER_FILE):
                self._write(waiting)
                waiting = []
            kind_of_waiting = kind
            packed = self.engine.pack({"batch": batch}).to(self.engine.device)
            hidden = self.engine.hidden(packed)
            logp = self.engine.logp_of(hidden, packed.labels).cpu()
            lengths = [len(example) for example in batch]
            states = hidden.cpu().split(lengths) if kind == "hidden" else [None] * len(batch)
            waiting += list(zip(batch, logp.split(lengths), states, strict=True))
        if waiting:
            self._write(waiting)

    def _write(self, entries: Sequence[tuple[Example, Tensor, Tensor | None]]) -> None:
        lengths = torch.tensor([0] + [len(example) for example, _, _ in entries])
        digests = b"".join(digest(example) for example, _, _ in entries)
        tensors = {
            "digests": torch.frombuffer(bytearray(digests), dtype=torch.uint8).view(-1, 16),
            "offsets": lengths.cumsum(0),
            "logp": torch.cat([logp for _, logp, _ in entries]),
        }
        if entries[0][2] is not None:
            tensors["hidden"] = torch.cat([states for _, _, states in entries])
        name = hashlib.blake2b(digests + bytes("hidden" in tensors), digest_size=12).hexdigest()
        target = self.folder / f"values-{name}.safetensors"
        partial = target.with_suffix(f".partial-{uuid4().hex}")  # other runs may be writing the same file
        save_file(tensors, partial)
        partial.replace(target)

    def _open(self) -> None:
        for path in sorted(self.folder.glob("values-*.safetensors")):
            try:
                source = safe_open(path, "pt")
                digests = source.get_tensor("digests").numpy()
                offsets = source.get_tensor("offsets").tolist()
            except (SafetensorError, OSError) as error:
                log.warning("%s cannot be read (%s); it is made anew", path, error)
                path.unlink(missing_ok=True)
                continue
            kinds = ("logp", "hidden") if "hidden" in source.keys() else ("logp",)
            for number, key in enumerate(digests):
                for kind in kinds:
                    self._where[(key.tobytes(), kind)] = (source, offsets[number], offsets[number + 1])


def _batches(todo: Sequence[tuple[Example, str]]):
    """(kind, examples) of up to TOKENS_PER_BATCH tokens; one kind per batch."""
    batch, tokens, kind = [], 0, None
    for example, its_kind in todo:
        length = len(example.prompt) + len(example.answer)
        if batch and (its_kind != kind or tokens + length > TOKENS_PER_BATCH):
            yield kind, batch
            batch, tokens = [], 0
        batch.append(example)
        tokens, kind = tokens + length, its_kind
    if batch:
        yield kind, batch
