"""What two processes do together: the parts that are named, one after the other, in one start (gloo).

torchrun --nproc_per_node=2 -m tests.together PART ..., or processes forked for it by tests/warm_python.py

Called in a folder with models/. In two/PART it leaves what tests/test_distributed.py looks at: what was written there, and in
said-N.json what process N has to say.
"""

from __future__ import annotations

import atexit
import io
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, redirect_stdout, suppress
from datetime import timedelta
from pathlib import Path
from unittest import mock

import accelerate.state
import torch
from accelerate.utils import DistributedType
from torch import distributed as dist

from tests.models import tiny_model
from tests.runs import QUICK_EVALUATION, compose_settings, run
from utils import distributed, shared_work
from utils.distributed import barrier, by_main, gathered, is_main, main_first, rank
from utils.engine import token_cache
from utils.engine.engine import Engine
from utils.runs import settings
from utils.runs.run import Run, RunError
from utils.sharding import is_sharded
from utils.tokens.example import Example
from utils.training.resumable import last_checkpoint
from utils.training.trainer import UnlearnTrainer

PARTS: dict[str, Callable[[], object]] = {}
MODELS = "../../models"

# 10 items in batches of 4: 5 steps. NPO-KL reads a reference, which both processes compute and cache together.
STEPS = ("split=forget05", "batch_size=4", "epochs=2", "warmup=1", "optimizer=sgd", "lr=0.05", "model=tiny", "out=run")
PLAIN = ("method=npo_kl", f"model.path={MODELS}/target", *STEPS)
LORA = ("method=npo_kl", *STEPS, "lr=0.5", "gradient_checkpointing=true")
EVALUATION = ("split=forget05", "model=tiny", f"model.path={MODELS}/target", "tokens_per_batch=300", "generation_batch_size=2")
EVALUATION += (*QUICK_EVALUATION, "oracle=oracle", "trust_oracle=true", "out=eval")

# What one process does too, for comparison. On one process nothing is sharded.
TRAINS = {
    "trains": (*PLAIN, "checkpoint=2"),
    # Two items after one another are one micro-batch, whoever computes it; the reference has the same rows in its cache.
    "pads": (*PLAIN, "method.loss.kl_span=open_unlearning", "per_device_batch_size=2", "reference=cached"),
}
SHARDED = {
    # One process may hold a micro-batch without a retain item, of which the reference is asked nothing.
    "mixes": (
        "method=ascent_plus_kl_divergence",
        *(word for word in STEPS if not word.startswith(("split", "epochs"))),
        *("benchmark=knowundo", "steps=6", "per_device_batch_size=1", "adapter=lora", "reference=adapter", "lr=0.5"),
        f"model.path={MODELS}/plain",
    ),
    "continues": (*LORA, "adapter=continue", "reference=adapter", f"model.path={MODELS}/adapter"),
    "merges": (
        *LORA,
        "adapter=lora",
        "precision=bfloat16",
        "model.dtype=bfloat16",
        "snapshots=5",
        f"model.path={MODELS}/adapter",
    ),
}
MORE_SHARDED = {
    "tied": (*PLAIN, f"model.path={MODELS}/tied", "per_device_batch_size=1", "snapshots=3"),
    "resumes": (*PLAIN, f"model.path={MODELS}/plain", "optimizer=adamw_torch", "lr=1e-3", "checkpoint=2"),
    "adapts_the_head": (*LORA, "adapter=lora", f"model.path={MODELS}/plain", "model.lora.target_modules=[q_proj,lm_head]"),
    "caches": (*PLAIN, f"model.path={MODELS}/plain", "reference_cache_gib=0"),
}


def part(do: Callable[[], object]) -> Callable[[], object]:
    PARTS[do.__name__] = do
    return do


@part
def trains() -> None:
    run(Path(), "unlearn", *TRAINS["trains"])


@part
def pads() -> None:
    run(Path(), "unlearn", *TRAINS["pads"])


@part
def evaluates() -> int:
    """How often this process printed a metric."""
    with redirect_stdout(io.StringIO()) as printed:
        run(Path(), "evaluate", *EVALUATION)
    return printed.getvalue().count("forget_quality")


@part
def fails_first() -> str:
    """What fails on the main process keeps no other waiting."""
    try:
        with main_first():
            if is_main():
                raise OSError("disk full")
    except OSError as error:
        return str(error)
    return "went on"


@part
def gathers() -> list[str]:
    return gathered(["ab", "c"][rank()])


@part
def shares_the_cache() -> list[object]:
    hashed, original = [], token_cache.file_hash
    with mock.patch.object(token_cache, "file_hash", lambda path: hashed.append(path.name) or original(path)):
        engine = Engine(tiny_model(), pad=0)
        cache = token_cache.TokenCache("cache", engine)
        token_cache.TokenCache("cache", engine)  # has nothing left to look at
        looked = list(hashed)
        cache.add(Example((0, 9), (rank(),)), ("logp",), torch.tensor([[1.0 + rank()]]))
        cache.share()
    known = [place for place in range(4) if cache.knows(Example((0, place), (7, 8)), ("logp",))]
    shared = [cache.values(Example((0, 9), (other,)), ("logp",)).item() for other in (0, 1)]
    return [looked, known, shared, len(hashed) - len(looked)]


@part
def opens() -> list[bool | str]:
    """A free folder, and one that another process holds."""
    said = []
    for folder in ("run", "held"):
        try:
            with Run.open(compose_settings("unlearn", f"out={folder}"), "unlearn", {}) as opened:
                said.append(opened.skip)
                opened.finish()
        except RunError as error:
            said.append(str(error))
    return said


@part
def looks_before_others_have_written() -> list[dict]:
    """One process sees a file that the main one does not: a disk that is late, or another run."""
    path = Path("parts") / "rows.jsonl"
    if not is_main():
        path = Path("elsewhere") / "rows.jsonl"
        path.parent.mkdir()
        for old in (path, path.with_suffix(".json")):
            old.write_text('{"old": true}\n')
    computed = shared_work.kept_rows(path, lambda: [{"number": number} for number in gathered([rank()])])
    return [shared_work.kept_json(path.with_suffix(".json"), lambda: {"numbers": gathered([rank()])}), *computed]


@part
def works_in_folders_of_its_own() -> list[object]:
    """As on two machines without a common disk: first no folder is common, then all but the cache."""
    own, common, said = Path(f"machine{rank()}"), Path("common").absolute(), []
    (own / "a" / "b").mkdir(parents=True)
    models = (Path(MODELS) / "target").resolve()
    for out in ("run", common):
        try:
            with mock.patch.object(shared_work, "PATIENCE", 0.5):
                run(own / "a" / "b", "unlearn", *PLAIN, f"model.path={models}", f"out={out}")
        except RunError as error:
            said.append(str(error))
    barrier()
    return [said, (own / "a" / "b" / "run").exists(), common.exists()]


@part
def waits() -> list[object]:
    """Longer for what one process does alone than for what all compute. Comes last: it breaks the group that computes."""
    from torch.distributed.distributed_c10d import _set_pg_timeout

    _set_pg_timeout(timedelta(seconds=0.5), dist.group.WORLD)
    with main_first():
        time.sleep(1.5 if is_main() else 0)
    found = [by_main(lambda: time.sleep(1.5) or "found"), gathered([rank()])]
    if is_main():
        time.sleep(1.5)
        return [*found, "never came"]
    try:
        dist.barrier()
    except RuntimeError:
        return [*found, "gave up"]
    return [*found, "waited"]


def sharded(name: str, *more: str) -> dict[str, list[str]]:
    """What training saw, where accelerate shards although there is no GPU."""
    seen: dict[str, set[str]] = {"sharded": set(), "statistics": set(), "gradients": set()}
    statistics, norm = Engine.statistics, UnlearnTrainer._get_grad_norm

    def watched_statistics(self, *arguments):
        values = statistics(self, *arguments)
        if torch.is_grad_enabled() and is_main():
            seen["sharded"].add(str(is_sharded(self.model)))
            seen["statistics"].add(str(values.dtype))
        return values

    def watched_norm(self, model, *arguments, **named):
        gradients = [one.grad.to_local() for one in model.parameters() if one.grad is not None]
        rounded = all(torch.equal(one, one.bfloat16().to(one.dtype)) for one in gradients)
        seen["gradients"].add("rounded" if rounded else "exact")
        return norm(self, model, *arguments, **named)

    with (
        mock.patch.object(Engine, "statistics", watched_statistics),
        mock.patch.object(UnlearnTrainer, "_get_grad_norm", watched_norm),
        _sharding_without_gpus(),
    ):
        run(Path(), "unlearn", *{**SHARDED, **MORE_SHARDED}[name], "launcher=fsdp2", *more)
    return {key: sorted(found) for key, found in seen.items()}


@part
def resumes() -> dict[str, list[str]]:
    """Ends after step 3, and goes on from the checkpoint of step 2."""

    class Cut(Exception):
        pass

    record = Run.record

    def cut(self, entry):
        record(self, entry)
        if entry["step"] == 3:
            raise Cut

    with mock.patch.object(Run, "record", cut), suppress(Cut):
        sharded("resumes")
    from_where = last_checkpoint(Path("run") / "checkpoints")
    return {"from": [from_where and from_where.name], **sharded("resumes")}


@contextmanager
def _sharding_without_gpus() -> Iterator[None]:
    """Within the block, accelerate takes two processes without GPUs for two with one each, as far as sharding goes."""
    original = accelerate.state.AcceleratorState.__init__

    def initialised(self, *arguments, fsdp_plugin=None, **options):
        original(self, *arguments, fsdp_plugin=fsdp_plugin, **options)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            if self._mixed_precision != "no":
                fsdp_plugin.set_mixed_precision(self._mixed_precision)
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            accelerate.state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP

    with (
        mock.patch.object(accelerate.state.AcceleratorState, "__init__", initialised),
        mock.patch.object(settings, "device", lambda: torch.device("cuda")),
    ):
        try:
            yield
        finally:
            accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def main(names: list[str]) -> None:
    here, number = Path.cwd(), int(distributed.rank())
    atexit.register(lambda: (here / f"left-{number}").write_text(str(not dist.is_initialized())))  # first in, last out
    distributed.COMPUTING, distributed.WAITING = timedelta(seconds=90), timedelta(seconds=90)  # an error must not hang the other
    distributed.start()
    for name in names:
        folder = here / "two" / name
        folder.mkdir(parents=True, exist_ok=True)
        do = PARTS.get(name) or (lambda name=name: sharded(name))
        with chdir(folder):
            try:
                said = do()
            except BaseException:
                said = {"error": traceback.format_exc()}
            (folder / f"said-{number}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(sys.argv[1:])
