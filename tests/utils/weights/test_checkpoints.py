"""Checkpoints as named tensors: what fits together, and one sentence for each that does not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import save_file

from tests.models import moved_copy, tiny_model
from tests.utils.weights.checkpoint_files import SMALL, assert_equal, edit_json, folder, naive, saved, tensors
from utils.weights import checkpoints, safetensors_stream
from utils.weights.arithmetic import negate
from utils.weights.checkpoints import Checkpoint, local_folder
from utils.weights.safetensors_stream import WeightsError, read_header

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
HOLDS = ((EMBEDDING,), (HEAD,), (EMBEDDING, HEAD))


def tied_pair(path: Path, mine: tuple[str, ...], theirs: tuple[str, ...]) -> tuple[list[Path], list[torch.Tensor]]:
    """Two checkpoints of a tied model that store its embedding under the given names, and the embeddings."""
    start = tiny_model(vocabulary=50, **SMALL, tie_word_embeddings=True)
    paths, embeddings = [], []
    for place, model, names in (("base", start, mine), ("bad", moved_copy(start), theirs)):
        paths.append(saved(model, path / place))
        held = tensors(paths[-1])
        embeddings.append(held.pop(EMBEDDING))
        copies = {name: embeddings[-1].clone() for name in names}
        save_file({**held, **copies}, paths[-1] / "model.safetensors", {"format": "pt"})
    return paths, embeddings


@pytest.mark.parametrize("mine", HOLDS)
@pytest.mark.parametrize("theirs", HOLDS)
def test_a_tied_tensor_may_be_stored_under_any_of_its_names(tmp_path, mine, theirs):
    paths, (start, end) = tied_pair(tmp_path, mine, theirs)
    negate(*paths, tmp_path / "out")
    found = tensors(tmp_path / "out")
    assert found.keys() == tensors(paths[0]).keys() and {HEAD, EMBEDDING} & found.keys() == set(mine)
    assert all(torch.equal(found[name], start - (end - start)) for name in mine)


def test_copies_of_a_tied_tensor_must_be_equal(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors_stream, "SLICE", 100)
    paths, _ = tied_pair(tmp_path, (EMBEDDING,), (EMBEDDING, HEAD))
    held = tensors(paths[1])
    held[HEAD][-1, -1] += 1
    save_file(held, paths[1] / "model.safetensors", {"format": "pt"})
    with pytest.raises(WeightsError, match=rf"bad/model.safetensors: {HEAD} differs from {EMBEDDING}, but the base model ties"):
        negate(*paths, tmp_path / "out")


def test_an_untied_tensor_that_is_missing_is_no_alias(tmp_path):
    """Two norms hold the same ones, and neither stands for the other."""
    start = saved(tiny_model(**SMALL), tmp_path / "base")
    end = saved(moved_copy(tiny_model(**SMALL)), tmp_path / "bad")
    gone = "model.layers.0.post_attention_layernorm.weight"
    for place, where in ((end, "bad"), (start, "base")):
        held = tensors(place)
        save_file({n: t for n, t in held.items() if n != gone}, place / "model.safetensors", {"format": "pt"})
        with pytest.raises(WeightsError, match=rf"{where} has no {gone}, but .*/model.safetensors has; give checkpoints of one"):
            negate(start, end, tmp_path / "out")
        save_file(held, place / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    "theirs, reason",
    [
        ({"w": torch.ones(3, 2)}, r"w is 2 x 3 in .*base/model.safetensors and 3 x 2 in .*bad/model.safetensors; give checkp"),
        ({"v": torch.ones(2, 3)}, r"bad has no w, but .*base/model.safetensors has"),
        ({"w": torch.ones(2, 3), "v": torch.ones(1)}, r"base has no v, but .*bad/model.safetensors has"),
        ({"w": torch.ones(2, 3, dtype=torch.int8)}, r"bad has no w in floating point, but .*base/model.safetensors has"),
        ({"w": torch.ones(2, 3).to(torch.float8_e4m3fn)}, r"w is of type F8_E4M3, which is not computed with; give weights"),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(tmp_path, theirs, reason):
    start, end = folder(tmp_path / "base", w=torch.zeros(2, 3)), folder(tmp_path / "bad", **theirs)
    with pytest.raises(WeightsError, match=reason):
        negate(start, end, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "base"]


def test_integers_need_no_counterpart(tmp_path):
    start = folder(tmp_path / "base", w=torch.zeros(2), positions=torch.arange(3))
    end = folder(tmp_path / "bad", w=torch.ones(2), steps=torch.arange(4))
    negate(start, end, tmp_path / "out")
    assert_equal(tensors(tmp_path / "out"), {"w": torch.full((2,), -1.0), "positions": torch.arange(3)})


def header(content: object) -> bytes:
    text = json.dumps(content).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "it has no safetensors header"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it has no safetensors header"),
        ((5).to_bytes(8, "little") + b"{]{]{", "its header makes no sense"),
        (header([1, 2]), "its header makes no sense"),
        (header({"w": {"dtype": "F32", "shape": [2]}}), "its header makes no sense"),
        (header({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}) + bytes(8), "w has 4 bytes instead of 8"),
        (header({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}) + bytes(7), "it is cut short, w is not whole"),
    ],
)
def test_damaged_files_are_named(tmp_path, content, reason):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match=rf"model.safetensors is damaged \({reason}\); copy or save it again"):
        read_header(tmp_path / "model.safetensors")


def test_a_header_larger_than_the_library_reads_is_not_read(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes((10**8 + 1).to_bytes(8, "little"))
    os.truncate(path, 2 * 10**8)  # a hole: it takes no room
    with pytest.raises(WeightsError, match="it has no safetensors header"):
        read_header(path)


def test_damaged_shards_are_named(tmp_path):
    path = saved(tiny_model(**SMALL), tmp_path / "base", shard="20KB")
    index = path / "model.safetensors.index.json"
    known = json.loads(index.read_text())["weight_map"]
    edit_json(index, weight_map={**known, "extra.weight": known[EMBEDDING]})
    with pytest.raises(WeightsError, match=rf"{known[EMBEDDING]} has no extra.weight, and {index.name} names it; save"):
        Checkpoint.open(path)
    edit_json(index, weight_map={**known, "extra.weight": "gone.safetensors"})
    with pytest.raises(WeightsError, match=rf"gone.safetensors is missing, and {index.name} names it; copy or save"):
        Checkpoint.open(path)
    index.write_text("{")
    with pytest.raises(WeightsError, match=rf"{index.name} is damaged; copy or save the checkpoint again"):
        Checkpoint.open(path)
    index.unlink()
    with pytest.raises(WeightsError, match="base holds no model.safetensors; save the model in safetensors format"):
        Checkpoint.open(path)


def test_quantised_weights_are_refused(tmp_path):
    path = folder(tmp_path / "base", w=torch.ones(2))
    edit_json(path / "config.json", quantization_config={"load_in_4bit": True})
    with pytest.raises(WeightsError, match="base is quantised; give a checkpoint in 16, 32 or 64 bit"):
        Checkpoint.open(path)


def test_nothing_but_a_model_is_replaced_and_no_input(tmp_path):
    start = folder(tmp_path / "run" / "model", w=torch.zeros(2))
    end = folder(tmp_path / "bad", w=torch.ones(2))
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.tex").write_text("years of work")
    (tmp_path / "file").write_text("")
    refused = {
        tmp_path / "run": "would replace .*run/model, which is read; choose another out",
        tmp_path / "run" / "model": "would replace .*run/model, which is read",
        end: "would replace .*bad, which is read",
        tmp_path / "notes": "notes exists and holds no model; choose another out",
        tmp_path / "file": "there is a file of that name; choose another out",
    }
    for out, reason in refused.items():
        with pytest.raises(WeightsError, match=reason):
            negate(tmp_path / "run", end, out)
    (tmp_path / "empty").mkdir()
    for _ in range(2):  # into an empty folder, then over what came of it
        negate(tmp_path / "run", end, tmp_path / "empty")
    assert_equal(tensors(tmp_path / "empty"), naive(start, [(-1.0, end, start)]))
    assert (tmp_path / "notes" / "thesis.tex").exists()


def test_folders_and_names(tmp_path, monkeypatch):
    path = folder(tmp_path / "run" / "model", w=torch.ones(2))
    assert local_folder(tmp_path / "run") == local_folder(path) == path
    for wrong in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(WeightsError, match=f"{wrong} holds no model; give a run folder, a model folder or a Hub name"):
            local_folder(wrong)
    fetched = []
    monkeypatch.setattr(checkpoints, "snapshot_download", lambda name, allow_patterns: fetched.append(name) or str(path))
    assert local_folder(Path("owner/name")) == path and fetched == ["owner/name"]

    def offline(name: str, allow_patterns: list[str]) -> str:
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(checkpoints, "snapshot_download", offline)
    with pytest.raises(WeightsError, match=r"owner/name is no folder, and the Hub does not give it \(LocalEntryNotFound"):
        local_folder(Path("owner/name"))
