"""Small runs for tests: the three scripts as a user calls them (in this process or a new one), and a model to start from."""

from __future__ import annotations

import atexit
import gc
import io
import json
import logging
import os
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import Tensor

from tests.models import tiny_model, tokenizer
from tests.warm_python import WarmPython
from utils import ROOT
from utils.files import read_rows
from utils.runs import cli
from utils.runs.series import script_main
from utils.weights.models import save_model

SHARED = os.environ.get("LETHE_SHARED")
REAL = Path(SHARED) if SHARED else None

# A model of 70 thousand parameters, and an evaluation of a few rows with short answers.
SMALL = tuple(
    f"model.architecture.{key}={value}"
    for key, value in {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
    }.items()
)
# A training of ten items with a reference, long enough to be stopped on its way.
SIX_STEPS = ("split=forget05", "batch_size=4", "epochs=2.4", "lr=1e-3", "warmup=1", "method=npo_rt", "model=tiny")
QUICK_EVALUATION = ("benchmark.rows=3", "benchmark.max_new_tokens=8", "resamples=100")

_main = cache(script_main)

gc.freeze()  # every training collects garbage, and need not look at the modules


@dataclass(frozen=True)
class Finished:
    """How a program ended: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def last_words(self) -> str:
        """The last line of standard error."""
        return self.err.strip().splitlines()[-1] if self.err.strip() else ""


def compose_settings(script: str, *overrides: object) -> DictConfig:
    """The settings that `python <script>.py <overrides>` would start with."""
    return cli.compose_settings(script, map(str, overrides))


def run(folder: Path, name: str, *overrides: object) -> None:
    """What `python name.py overrides` does in `folder`, without the command line; errors are raised."""
    cfg = compose_settings(name, *overrides)
    with chdir(folder):
        _main(name)(cfg)


def script(folder: Path, name: str, *arguments: object) -> Finished:
    """Runs `python name.py arguments` in `folder`, within this process (importing torch anew takes seconds)."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with _command_line([f"{name}.py", *map(str, arguments)]), chdir(folder), redirect_stdout(out), redirect_stderr(err):
        try:
            runpy.run_path(str(ROOT / f"{name}.py"), run_name="__main__")
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
            if isinstance(end.code, str):
                print(end.code, file=err)
    return Finished(code, out.getvalue(), err.getvalue())


def succeed(folder: Path, name: str, *arguments: object) -> Finished:
    """Like `script`, for a command that must end well."""
    finished = script(folder, name, *arguments)
    assert finished.code == 0, finished.err
    return finished


@contextmanager
def _command_line(arguments: list[str]) -> Iterator[None]:
    """Within the block the program was called with `arguments`; afterwards logging is as before."""
    before, root = (sys.argv, sys.__stderr__), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    # Hydra closes all log handlers, and that of absl closes its stream, pytest's, unless it is a standard one.
    sys.argv, sys.__stderr__ = arguments, sys.stderr
    try:
        yield
    finally:
        sys.argv, sys.__stderr__ = before
        root.handlers[:], root.level = handlers, level


def launch(folder: Path, *command: object, processes: int = 1, fresh: bool = False, **environment: str) -> Finished:
    """Runs `command` (a script of the root, or -c code) in `folder`, in one process or in several of one group.

    fresh: with a new Python, or with torchrun, as a user does; otherwise in processes that need not import torch anew.
    """
    words = [str(ROOT / str(word)) if str(word).endswith(".py") else str(word) for word in command]
    if not fresh:
        with tempfile.TemporaryDirectory() as said:
            code = _warm().run(folder, words, processes, _free_port(), environment, Path(said))
            return Finished(code, *((Path(said) / name).read_text() for name in ("out", "err")))
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={_free_port()}"]
    env = {**_environment(), **environment}
    done = subprocess.run([*start, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=300)
    return Finished(done.returncode, done.stdout, done.stderr)


@cache
def _warm() -> WarmPython:
    warm = WarmPython(_environment())
    atexit.register(warm.close)
    return warm


@cache
def _environment() -> dict[str, str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    if env.pop("PYTHONDONTWRITEBYTECODE", None):
        # Compiling torch and transformers anew for every process takes longer than the tests.
        env["PYTHONPYCACHEPREFIX"] = str(ROOT / ".cache" / "compiled")
    return env


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@cache
def shared_folder() -> Path:
    """A folder for what several test modules read; removed when Python ends."""
    folder = Path(tempfile.mkdtemp(prefix="lethe-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def target() -> Path:
    """A checkpoint folder with a small random model to unlearn from; its probabilities are far from uniform."""
    folder = shared_folder() / "target"
    model = tiny_model(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    save_model(model, tokenizer(), folder, torch.float32)
    return folder


def losses(run: Path) -> list[dict[str, Any]]:
    """The records of log.jsonl that belong to an optimizer step."""
    return [record for record in read_rows(run / "log.jsonl", appended=True) if "loss" in record]


def weights(run: Path, file: str = "model/model.safetensors") -> dict[str, Tensor]:
    return load_file(run / file)


def assert_same_weights(left: dict[str, Tensor], right: dict[str, Tensor], tolerance: float) -> None:
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=0.0, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}")


def assert_same_curve(left: Path, right: Path, tolerance: float = 1e-5) -> None:
    """Every number of every step, the epoch and the gradient norm among them, agrees to `tolerance` (relative above 1)."""
    ours, theirs = losses(left), losses(right)
    assert [record["step"] for record in ours] == [record["step"] for record in theirs] and ours
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert abs(value - other[key]) <= tolerance * max(1.0, abs(value)), (one["step"], key, value, other[key])


def metrics(folder: Path) -> dict[str, dict[str, Any]]:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def untouched(folder: Path) -> bool:
    """Whether nothing was created there."""
    return not folder.exists()
