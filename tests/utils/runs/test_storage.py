"""Disks that are full, locked or fail end a run with one sentence, and what was whole before still is."""

from __future__ import annotations

import errno
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.runs import QUICK_EVALUATION, SIX_STEPS, assert_same_curve, run, script, target
from utils.files import StorageError, read_json, told, whole_folder, write_json, write_parquet, write_text
from utils.training.resumable import last_checkpoint

STEPS = (*SIX_STEPS, f"model.path={target()}")


@contextmanager
def largest_file(size: int):
    """A disk on which no file grows beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def weights_size() -> int:
    return (target() / "model.safetensors").stat().st_size


@pytest.mark.parametrize(
    "checkpoint, room, where",
    [
        pytest.param("none", 0.5, "run/model", marks=pytest.mark.slow),
        pytest.param("2", 0.5, "run/checkpoints", marks=pytest.mark.slow),
        ("2", 1.5, "run/checkpoints"),
    ],
)
def test_a_full_disk_ends_a_training_with_one_sentence_and_it_goes_on_later(tmp_path, checkpoint, room, where):
    """The model, the model of a checkpoint, or its optimizer has no room."""
    with largest_file(int(room * weights_size())):
        finished = script(tmp_path, "unlearn", *STEPS, f"checkpoint={checkpoint}", "out=run")
    assert finished.code == 1 and "Traceback" not in finished.err
    assert finished.last_words.startswith(f"{where}: ") and "make room on the disk" in finished.last_words
    assert read_json(tmp_path / "run" / "run.json")["status"] == "running"
    assert not (tmp_path / "run" / "model").exists() and not (tmp_path / "run" / "model.partial").exists()
    assert last_checkpoint(tmp_path / "run" / "checkpoints") is None and not (tmp_path / "run" / "lock.json").exists()
    assert script(tmp_path, "unlearn", *STEPS, f"checkpoint={checkpoint}", "out=run").code == 0
    run(tmp_path, "unlearn", *STEPS, "out=whole")
    assert_same_curve(tmp_path / "run", tmp_path / "whole", 0.0)


def test_a_full_disk_ends_an_evaluation_with_one_sentence(tmp_path):
    words = ("split=forget05", "model=tiny", f"model.path={target()}", *QUICK_EVALUATION, "oracle=none", "cache=null", "out=eval")
    with largest_file(3000):
        finished = script(tmp_path, "evaluate", *words)
    assert finished.code == 1 and "Traceback" not in finished.err
    assert (
        finished.last_words == "out=eval: cannot be written to (File too large: eval/run.json); make room, or choose another out="
    )
    assert not (tmp_path / "eval").exists()
    with largest_file(3000), pytest.raises(OSError, match="File too large.*scores.parquet"):
        write_parquet(pd.DataFrame({"logp": np.random.default_rng(0).random(1000)}), tmp_path / "scores.parquet")
    assert not list(tmp_path.glob("scores*"))
    assert script(tmp_path, "evaluate", *words).code == 0


@pytest.mark.parametrize("how", ["cut", "empty", "header", "shape", "link", "folder"])
@pytest.mark.parametrize("name", ["unlearn", "evaluate"])
def test_weights_that_cannot_be_read_are_one_sentence(tmp_path, name, how):
    shutil.copytree(target(), tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    content = path.read_bytes()
    if how == "shape":
        config = read_json(tmp_path / "model" / "config.json")
        write_json(tmp_path / "model" / "config.json", {**config, "intermediate_size": 96})
    else:
        path.unlink()
    if how == "link":
        path.symlink_to(tmp_path / "nowhere")
    if how == "folder":
        path.mkdir()
    if how in ("cut", "empty", "header"):
        path.write_bytes({"cut": content[:-1000], "empty": b"", "header": b"\0" * 64 + content[64:]}[how])
    words = ("oracle=none", *QUICK_EVALUATION) if name == "evaluate" else ("method=ga",)
    finished = script(tmp_path, name, "model=tiny", "model.path=model", "split=forget05", *words, "out=run")
    assert finished.code == 1 and "Traceback" not in finished.err
    assert finished.last_words.startswith("model.path=model"), finished.last_words
    assert not (tmp_path / "run" / "model").exists() and not (tmp_path / "run" / "scores.parquet").exists()


@pytest.mark.parametrize(
    "number, said",
    [
        (errno.ENOSPC, "No space left on device; make room on the disk, or choose another one"),
        (errno.EROFS, "Read-only file system; change its rights, or choose another folder"),
        (errno.ENOTDIR, "Not a directory; something else lies there: move it, or choose another folder"),
        (errno.ENOENT, "No such file or directory; check the path, and where its links lead"),
        (errno.EIO, "Input/output error; check the disk"),
    ],
)
def test_errors_of_the_system_name_file_and_remedy(tmp_path, monkeypatch, number, said):
    def fails(self, *_, **__):
        self.touch()
        raise OSError(number, said.split(";")[0])

    (tmp_path / "a.json").write_text("before")
    with monkeypatch.context() as patch, pytest.raises(OSError) as error:
        patch.setattr(Path, "write_text", fails)
        write_text(tmp_path / "a.json", "after")
    assert told(error.value) == f"{tmp_path}/a.json: {said}"
    assert (tmp_path / "a.json").read_text() == "before" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(StorageError, match=str(tmp_path / "folder")), whole_folder(tmp_path / "folder"):
        raise OSError(number, "failed")
    assert len(list(tmp_path.iterdir())) == 1


def test_errors_that_are_none_of_the_disk_keep_their_traceback(tmp_path):
    with pytest.raises(RuntimeError, match="shapes differ"), whole_folder(tmp_path / "folder"):
        raise RuntimeError("shapes differ")
    assert told(OSError("the Hub\nsaid no")) == "the Hub"
