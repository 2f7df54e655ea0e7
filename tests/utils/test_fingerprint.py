"""Hashes: the same for the same thing, different for anything that matters."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torch import nn

from tests.models import encoder, moved, tiny_model, tokenizer, with_lora
from utils import fingerprint
from utils.fingerprint import file_hash, settings_hash, text_hash, weights_hash
from utils.tokens import prompts
from utils.tokens.prompts import Encoder


def test_a_single_changed_weight_changes_the_hash():
    model, same = tiny_model(seed=1), tiny_model(seed=1)
    known = weights_hash(model)
    assert weights_hash(same) == known and len(known) == 16 and weights_hash(tiny_model(seed=2)) != known
    with torch.no_grad():
        same.lm_head.weight[3, 5] += 1e-6
    assert weights_hash(same) != known
    assert weights_hash(model.to(torch.bfloat16)) != known


def test_names_shapes_and_buffers_count():
    class Layer(nn.Module):
        def __init__(self, name: str, shape: tuple[int, ...], buffer: float = 0.0):
            super().__init__()
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))
            self.register_buffer("scale", torch.tensor(buffer))

    layers = [Layer("a", (6,)), Layer("b", (6,)), Layer("a", (2, 3)), Layer("a", (6,), 1.0)]
    assert len({weights_hash(layer) for layer in layers}) == 4


def test_order_and_borders_of_texts_count():
    assert text_hash("ab", "c") != text_hash("a", "bc") != text_hash("bc", "a")
    assert text_hash("a", "b") == text_hash("a", "b")


def test_files_are_named_by_their_sha256(tmp_path):
    (tmp_path / "data.json").write_bytes(b"{}\n")
    assert file_hash(tmp_path / "data.json") == hashlib.sha256(b"{}\n").hexdigest()[:16]


@pytest.mark.parametrize("ignore, same", [((), False), (("out",), True)])
def test_settings_count_by_value_and_not_by_order(ignore, same):
    one, other = {"lr": 1e-5, "out": "a", "x": {"b": 1, "c": 2}}, {"x": {"c": 2, "b": 1}, "out": "b", "lr": 0.00001}
    assert (settings_hash(one, ignore) == settings_hash(other, ignore)) is same
    assert settings_hash({"lr": 1}) != settings_hash({"lr": 2})


def test_an_encoder_describes_its_tokenizer_once(monkeypatch):
    calls = []

    def state(which):
        calls.append(which)
        return original(which)

    original = prompts.tokenizer_state
    monkeypatch.setattr(prompts, "tokenizer_state", state)
    fresh = Encoder(tokenizer(), encoder().template)
    assert {fresh.fingerprint for _ in range(3)} == {encoder().fingerprint}
    assert calls.count(tokenizer()) <= 2  # once for each of the two encoders
    assert Encoder(tokenizer(), encoder().template, max_length=100).fingerprint != fresh.fingerprint


def test_relative_imports_are_followed_too(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    files = {"__init__": "from . import first", "first": "from .second import ONE", "second": "ONE = 1", "apart": ""}
    (tmp_path / "house").mkdir()
    for name, content in files.items():
        (tmp_path / "house" / f"{name}.py").write_text(content)
    assert sorted(fingerprint.project_sources(["house.second"])) == ["house", "house.first", "house.second"]
    assert sorted(fingerprint.project_sources(["house.first"])) == ["house", "house.first", "house.second"]


def test_adapters_can_be_left_out():
    one, other = with_lora(tiny_model()), with_lora(tiny_model())
    moved(other)  # as if another seed had drawn the adapter
    assert weights_hash(one) != weights_hash(other)
    assert weights_hash(one, adapters=False) == weights_hash(other, adapters=False)
    assert weights_hash(one, adapters=False) != weights_hash(with_lora(tiny_model(seed=2)), adapters=False)


def test_code_is_found_by_its_imports_and_a_changed_byte_changes_its_hash(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)
    files = {
        "house/__init__.py": "",
        "house/first.py": "import torch\nfrom house.second import value\n",
        "house/second.py": "def value():\n    from house import third\n    return third.ONE\n",
        "house/third.py": "ONE = 1\n",
        "house/apart.py": "TWO = 2\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    found = fingerprint.project_sources(["house.first", "torch.nn"])
    assert sorted(found) == ["house", "house.first", "house.second", "house.third"]
    hashes = {fingerprint.code_hash.__wrapped__(frozenset({"house.first"}))}
    for name in ("house/third.py", "house/second.py", "house/first.py", "house/__init__.py"):
        (tmp_path / name).write_text(files[name] + "# another\n")
        hashes.add(fingerprint.code_hash.__wrapped__(frozenset({"house.first"})))
    assert len(hashes) == 5
    (tmp_path / "house/apart.py").write_text("TWO = 3\n")
    assert fingerprint.code_hash.__wrapped__(frozenset({"house.first"})) in hashes
