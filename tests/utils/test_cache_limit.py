"""The cache stays within its limit: what was not used for longest goes first, never what somebody uses, nothing else ever."""

from __future__ import annotations

import gc
import json
import os
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from tests.models import tiny_model, tokenizer
from tests.runs import QUICK_EVALUATION, run, target
from utils import alive
from utils.cache_limit import LIVE, make_room, touch, use
from utils.engine.engine import Engine
from utils.engine.token_cache import TokenCache
from utils.tokens.example import Example

KIB = 1 / 2**20  # in GiB


def file(root: Path, folder: str, number: int, used: int, kind: str = "values-%02x.safetensors") -> Path:
    """A file of one KiB that was used so many seconds after the beginning of time."""
    path = root / f"{folder * 16}-float32-cpu-0" / (kind % number)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 1024)
    os.utime(path, (used, 1))
    return path


def left(root: Path) -> list[str]:
    return sorted(f"{path.parent.name[0]}/{path.name}" for path in root.glob("*-float32-*/*"))


def test_what_was_not_used_for_longest_goes_first(tmp_path, caplog):
    old, older = file(tmp_path, "a", 1, used=20), file(tmp_path, "b", 2, used=10)
    new = file(tmp_path, "b", 3, used=30, kind="texts-%02x.json")
    with caplog.at_level("INFO"):
        make_room(tmp_path, 3 * KIB)
    assert len(left(tmp_path)) == 3 and f"cache {tmp_path}: 0.0 MiB (at most 2.86102e-06 GiB, cache_gib)" in caplog.text
    touch(older)
    assert older.stat().st_mtime == 1
    make_room(tmp_path, 2 * KIB)
    assert not old.parent.exists() and older.exists() and new.exists()
    make_room(tmp_path, None)
    assert older.exists() and new.exists()
    make_room(tmp_path, 0)
    assert not left(tmp_path)
    make_room(None, 1)
    make_room(tmp_path / "nowhere", 1)
    assert not (tmp_path / "nowhere").exists()


def test_what_a_live_run_uses_stays_and_a_dead_one_protects_nothing(tmp_path, caplog):
    used, free = file(tmp_path, "a", 1, used=10), file(tmp_path, "b", 2, used=20)
    half = file(tmp_path, "a", 0, used=1, kind="partial-%032x")
    sign = use(used.parent)
    elsewhere = tmp_path / LIVE / f"{free.parent.name}.1"
    elsewhere.write_text(json.dumps(asdict(alive.Owner("far", 1, "now", "another place"))))
    make_room(tmp_path, 0)
    assert used.exists() and free.exists() and half.exists()
    assert f"cache={tmp_path}: what live runs use is more than cache_gib=0 allows, and is kept" in caplog.text
    os.utime(elsewhere, (1, 1))
    make_room(tmp_path, 0)
    assert used.exists() and not free.exists() and not elsewhere.exists()
    sign.remove()
    make_room(tmp_path, 0)
    assert not used.parent.exists() and not list((tmp_path / LIVE).iterdir())


def test_orphans_go_whatever_the_limit_and_nothing_else_is_touched(tmp_path):
    kept = file(tmp_path, "a", 1, used=10)
    file(tmp_path, "a", 2, used=10, kind="partial-%032x")
    file(tmp_path, "a", 3, used=10, kind="values-%02x.safetensors.partial-7")
    foreign = [tmp_path / "multirun" / "0" / "multirun.yaml", tmp_path / "thesis-1" / "values-00.safetensors", tmp_path / "notes"]
    foreign.append(kept.parent / "notes.txt")
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    make_room(tmp_path, None)
    assert left(tmp_path) == ["a/notes.txt", f"a/{kept.name}"]
    make_room(tmp_path, 0)
    assert not kept.exists() and all(path.read_text() == "mine" for path in foreign)


def test_a_cache_protects_its_folder_as_long_as_it_is_used(tmp_path):
    example, values = Example((0, 5), (7,)), torch.tensor([[-0.5]])
    cache = TokenCache(tmp_path, Engine(tiny_model(), pad=tokenizer().pad_token_id))
    cache.add(example, ("logp",), values)
    cache.write()
    make_room(tmp_path, 0)
    folder = cache.folder
    assert list(folder.iterdir()) and cache.values(example, ("logp",)).item() == -0.5
    del cache
    gc.collect()
    make_room(tmp_path, 0)
    assert not folder.exists()


def test_every_run_keeps_the_limit_and_says_so(tmp_path, caplog):
    words = ("split=forget05", f"model.path={target()}", *QUICK_EVALUATION, "oracle=none", "cache=cache")
    old = file(tmp_path / "cache", "a", 1, used=10)
    with caplog.at_level("INFO"):
        run(tmp_path, "evaluate", *words, "out=one")
    assert old.exists() and caplog.text.count("cache cache: 0.0 MiB (at most 50 GiB, cache_gib)") == 1
    run(tmp_path, "evaluate", *words, "cache_gib=0", "out=two")
    assert not old.exists()
    with pytest.raises(ValueError, match="cache_gib=-1: write a number from 0, or null for no limit"):
        run(tmp_path, "evaluate", *words, "cache_gib=-1", "out=three")


def test_a_cache_of_somebody_else_is_read_all_the_same(tmp_path, monkeypatch, caplog):
    def refuses(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuses)
    make_room(tmp_path, 0)
    assert f"cache={tmp_path}: cannot be tidied up" in caplog.text
    assert not TokenCache(tmp_path, Engine(tiny_model(), pad=0)).knows(Example((0, 5), (7,)), ("logp",))
