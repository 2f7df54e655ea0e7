"""Task vectors: by hand, against loading everything at once, in little memory, never half-written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from pytest import approx
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.models import moved_copy, tiny_model, tokenizer
from tests.utils.weights.checkpoint_files import SMALL, assert_equal, folder, naive, saved, tensors
from utils import files
from utils.weights import safetensors_stream
from utils.weights.arithmetic import TaskVector, combine, negate
from utils.weights.models import save_model
from utils.weights.safetensors_stream import StoredTensor, read_header


@pytest.fixture
def base(tmp_path) -> Path:
    save_model(tiny_model(**SMALL), tokenizer(), tmp_path / "base", torch.float32)
    return tmp_path / "base"


@pytest.fixture
def bad(tmp_path) -> Path:
    return saved(moved_copy(tiny_model(**SMALL)), tmp_path / "bad")


@pytest.mark.parametrize("coefficient, wanted", [(1.0, [0.5, 3.0, -0.5]), (0.5, [0.75, 2.5, -0.5])])
def test_negation_by_hand(tmp_path, coefficient, wanted):
    start = folder(tmp_path / "base", w=torch.tensor([1.0, 2.0, -0.5]))
    end = folder(tmp_path / "bad", w=torch.tensor([1.5, 1.0, -0.5]))
    negate(start, end, tmp_path / "out", coefficient)
    assert tensors(tmp_path / "out")["w"].tolist() == wanted


def test_negation_of_one_step_of_adamw(tmp_path):
    """theta = 1, gradient 0.3, rate 2e-4, weight decay 0.01: float64 checkpoints are computed in float64."""
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    start = folder(tmp_path / "base", w=weight.detach().clone())
    weight.grad = torch.full_like(weight, 0.3)
    torch.optim.AdamW([weight], lr=2e-4).step()
    negate(start, folder(tmp_path / "bad", w=weight.detach()), tmp_path / "out")
    assert weight.item() == approx(0.9997980000066667, abs=1e-15)
    assert tensors(tmp_path / "out")["w"].item() == approx(1.0002019999933331, abs=1e-15)


def test_one_input_in_float64_is_enough_to_compute_in_it(tmp_path):
    """2^-30 on top of 1 is nothing in float32; what is written has the type of the base."""
    for number, wide in enumerate(("base", "finetuned")):
        types = {name: torch.float64 if name == wide else torch.float32 for name in ("base", "finetuned")}
        start = folder(tmp_path / f"base{number}", w=torch.ones(1, dtype=types["base"]))
        moved = folder(tmp_path / f"moved{number}", w=torch.ones(1, dtype=types["finetuned"]) + (2**-30 if number else 2**-20))
        combine(start, [TaskVector(1.0, moved, start)], tmp_path / f"out{number}", torch.float64)
        assert tensors(tmp_path / f"out{number}")["w"].item() == 1 + (2**-30 if number else 2**-20)


def test_several_terms_by_hand(tmp_path):
    """1 + 2 (4 - 3) - 0.5 (7 - 1) = 0."""
    one, three, four, seven = (folder(tmp_path / str(n), w=torch.tensor([float(n)])) for n in (1, 3, 4, 7))
    combine(one, [TaskVector(2.0, four, three), TaskVector(-0.5, seven, one)], tmp_path / "out")
    assert tensors(tmp_path / "out")["w"].tolist() == [0.0]


@pytest.mark.parametrize("slice_length", [7, 100_000])
def test_tied_weights_move_once(tmp_path, monkeypatch, slice_length):
    """Embedding 1.0 -> 1.5, all else 2.0 -> 1.0, head = embedding: 0.5, 3.0, 0.5, where a second move would give 0.0."""
    monkeypatch.setattr(safetensors_stream, "SLICE", slice_length)
    paths = []
    for name, embedding, other in (("base", 1.0, 2.0), ("bad", 1.5, 1.0)):
        model = tiny_model(vocabulary=50, **SMALL, tie_word_embeddings=True)
        for parameter in model.parameters():
            nn.init.constant_(parameter, other)
        nn.init.constant_(model.get_input_embeddings().weight, embedding)
        paths.append(saved(model, tmp_path / name))
    negate(*paths, tmp_path / "out")
    result = AutoModelForCausalLM.from_pretrained(tmp_path / "out", use_safetensors=True)
    assert result.get_output_embeddings().weight is result.get_input_embeddings().weight
    for name, parameter in result.named_parameters():
        assert parameter.unique().tolist() == [0.5 if "embed" in name else 3.0], name


@pytest.mark.parametrize("shards", [("1GB", "1GB"), ("20KB", "1GB"), ("1GB", "20KB"), ("20KB", "50KB")])
def test_any_division_into_files_gives_the_same(tmp_path, monkeypatch, shards):
    monkeypatch.setattr(safetensors_stream, "SLICE", 1000)
    model = tiny_model(**SMALL)
    end = saved(moved_copy(model), tmp_path / "bad", shard=shards[1])
    start = saved(model, tmp_path / "base", shard=shards[0])
    negate(start, end, tmp_path / "out", 1.5)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {p.name for p in start.iterdir()}
    assert_equal(tensors(tmp_path / "out"), naive(start, [(-1.5, end, start)]))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out", use_safetensors=True)
    assert_equal(dict(loaded.state_dict()), naive(start, [(-1.5, end, start)]))


@pytest.mark.parametrize(
    "start, end, result",
    [
        (torch.float32, torch.float32, None),
        (torch.bfloat16, torch.bfloat16, None),
        (torch.float16, torch.float16, None),
        (torch.bfloat16, torch.float32, None),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float32, torch.float32, torch.bfloat16),
    ],
)
@pytest.mark.parametrize("shard", ["1GB", "20KB"])
def test_types(tmp_path, start, end, result, shard):
    one = saved(tiny_model(**SMALL), tmp_path / "base", start, shard)
    other = saved(moved_copy(tiny_model(**SMALL)), tmp_path / "bad", end)
    combine(one, [TaskVector(-1.5, other, one), TaskVector(0.3, one, other)], tmp_path / "out", result)
    wanted = naive(one, [(-1.5, other, one), (0.3, one, other)], result)
    assert_equal(tensors(tmp_path / "out"), wanted)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", use_safetensors=True)
    assert model.dtype == (result or start)  # read from config.json
    assert_equal(dict(model.state_dict()), wanted)
    if shard == "20KB":
        index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in wanted.values())


def test_the_file_is_the_one_that_the_library_writes(tmp_path, base, bad):
    negate(base, bad, tmp_path / "out")
    save_file(naive(base, [(-1.0, bad, base)]), tmp_path / "theirs", {"format": "pt"})
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_mixed_types_are_aligned_and_integers_are_copied(tmp_path):
    mixed = {"a": torch.tensor([True]), "b": torch.ones(3, dtype=torch.bfloat16), "c": torch.tensor([7]), "e": torch.empty(0, 4)}
    scalar = torch.tensor(2.0, dtype=torch.float64)
    start = folder(tmp_path / "base", **mixed, d=scalar)
    end = folder(tmp_path / "bad", **{**mixed, "c": torch.tensor([9])}, d=scalar + 1)
    negate(start, end, tmp_path / "out")
    assert_equal(tensors(tmp_path / "out"), {**mixed, "d": scalar - 1})
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    stored = read_header(tmp_path / "out" / "model.safetensors")
    assert all(tensor.offset % tensor.itemsize == 0 for tensor in stored.values())


def test_config_and_tokenizer_come_along(tmp_path, base, bad):
    (base / "optimizer.pt").write_bytes(b"large")
    negate(base, bad, tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {p.name for p in base.iterdir()} - {"optimizer.pt"}
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab() == tokenizer().get_vocab()


def test_only_slices_are_in_memory(tmp_path, base, bad, monkeypatch):
    monkeypatch.setattr(safetensors_stream, "SLICE", 500)
    lengths = []
    read = StoredTensor.read
    monkeypatch.setattr(StoredTensor, "read", lambda self, start, stop: lengths.append(stop - start) or read(self, start, stop))
    negate(base, bad, tmp_path / "out")
    total = sum(tensor.numel() for tensor in tensors(base).values())
    assert max(lengths) == 500 and sum(lengths) == 2 * total  # each checkpoint is read once, though the base has two roles


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peak memory is read from /proc")
def test_peak_memory_is_far_below_one_tensor(tmp_path):
    """One tensor of 64 MiB per checkpoint; loading both would take 128 MiB."""
    big = torch.arange(16 * 2**20, dtype=torch.float32)
    start, end = folder(tmp_path / "base", w=big), folder(tmp_path / "bad", w=big + 1)
    del big

    def kilobytes(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(key))

    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = kilobytes("VmRSS")
    negate(start, end, tmp_path / "out")
    assert kilobytes("VmHWM") - before < 24 * 1024


@pytest.mark.parametrize("after", [0, 9, 10_000])
def test_an_interrupted_write_leaves_nothing_that_looks_like_a_model(tmp_path, base, bad, monkeypatch, after):
    """Interrupted at the first slice, later, and when only the side files are missing."""
    out = tmp_path / "out"
    save_model(tiny_model(seed=5, **SMALL), tokenizer(), out, torch.float32)
    earlier = tensors(out)
    reads = []
    read, copy = StoredTensor.read, shutil.copyfile

    def interrupted(*arguments):
        reads.append(arguments)
        if len(reads) > after:
            raise KeyboardInterrupt
        return read(*arguments)

    def no_copy(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StoredTensor, "read", interrupted)
        patch.setattr(shutil, "copyfile", no_copy)
        with pytest.raises(KeyboardInterrupt):
            negate(base, bad, out)
    assert shutil.copyfile is copy
    assert_equal(tensors(out), earlier)  # what was there before is still there
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "base", "out"]
    (tmp_path / "out.partial").mkdir()  # what a killed process leaves
    (tmp_path / "out.partial" / "model-00001-of-00002.safetensors").write_bytes(b"cut")
    negate(base, bad, out)
    assert_equal(tensors(out), naive(base, [(-1.0, bad, base)]))
    assert not (tmp_path / "out.partial").exists() and not list(out.glob("model-*"))


@pytest.mark.parametrize("coefficient", [0.0, -1.0, float("nan"), float("inf")])
def test_numbers_that_cannot_be_meant_are_refused(tmp_path, coefficient):
    with pytest.raises(ValueError, match=f"coefficient={coefficient}: write a number above 0"):
        negate(tmp_path, tmp_path, tmp_path / "out", coefficient)
    if coefficient != -1.0:
        with pytest.raises(ValueError, match=f"coefficient={coefficient}: write a number other than 0"):
            TaskVector(coefficient, tmp_path, tmp_path)


@pytest.mark.parametrize(
    "theirs, coefficient, dtype, reason",
    [
        ({"w": [1.0, 2.0]}, 1.0, None, "hold the same weights, so their task vector is zero"),
        ({"w": [1.0, 2.0 + 2**-20]}, 1.0, torch.bfloat16, "equals .*base in every weight"),
        ({"w": [1.0, float("nan")]}, 1.0, None, r"bad/model.safetensors: w holds a value that is infinite or NaN"),
        ({"w": [1.0, 3.0]}, 1e5, torch.float16, "w: the result is too large for float16; give a smaller coefficient"),
        ({"w": [1.0, 3.0]}, 1.0, torch.int32, "dtype=int32: write one of null, float64, float32, float16, bfloat16"),
    ],
)
def test_results_that_make_no_model_are_refused(tmp_path, theirs, coefficient, dtype, reason):
    start = folder(tmp_path / "base", w=torch.tensor([1.0, 2.0]))
    end = folder(tmp_path / "bad", **{name: torch.tensor(values) for name, values in theirs.items()})
    with pytest.raises(ValueError, match=reason):
        negate(start, end, tmp_path / "out", coefficient, dtype)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "base"]


def test_a_full_disk_is_seen_before_writing(tmp_path, base, bad, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(ValueError, match="needs 0.00 GiB, and 0.00 GiB are free; make room or choose another disk"):
        negate(base, bad, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad", "base"]
