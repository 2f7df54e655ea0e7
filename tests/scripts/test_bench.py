"""The benchmark measures what it says: arithmetic by hand, memory by hand, both sides of a comparison."""

from __future__ import annotations

import json
import os

import pytest
import torch
from pytest import approx
from torch.nn.functional import scaled_dot_product_attention

from scripts import bench
from scripts.dev.counting import LiveBytes, count_flops, median_seconds, peak_bytes, weight_bytes
from tests.models import tiny_model, tokenizer
from utils import ROOT

CPU = torch.device("cpu")
SHARED = os.environ.get("LETHE_SHARED")
REAL_MODEL = ROOT / "models" / "smollm2-135m" / "config.json"


def test_flops_of_a_product_and_its_gradient():
    a, b = torch.randn(3, 5, requires_grad=True), torch.randn(5, 7, requires_grad=True)
    assert count_flops(lambda: a @ b) == 2 * 3 * 5 * 7
    assert count_flops(lambda: (a @ b).sum().backward()) == 3 * 2 * 3 * 5 * 7


@pytest.mark.parametrize("masked", [False, True])
def test_flops_of_attention_on_the_cpu(masked):
    """Two products of queries x keys x width per head: forward. Backward has five."""
    q, k, v = (torch.randn(2, 3, 8, 16, requires_grad=True) for _ in range(3))
    mask = torch.zeros(2, 1, 8, 8) if masked else None
    one = 2 * 2 * 3 * 8 * 8 * 16
    attend = lambda: scaled_dot_product_attention(q, k, v, attn_mask=mask)  # noqa: E731
    with torch.no_grad():
        assert count_flops(attend) == 2 * one
    assert count_flops(lambda: attend().sum().backward()) == (2 + 5) * one


def test_peak_bytes_of_tensors_alive_at_once():
    """Two of 4000 bytes live together, the third is made after the first is gone; the input was there before."""
    given = torch.zeros(100_000)

    def call():
        first = torch.zeros(1000)
        second = first + given[:1000]
        del first
        return second * 2

    assert peak_bytes(call, CPU) == 8000


def test_views_and_in_place_operations_take_no_room():
    with LiveBytes() as tracker:
        x = torch.zeros(10, 10)
        x.t().add_(1)[3:].mul_(2)
    assert tracker.peak == 400


def test_what_autograd_keeps_counts():
    """exp keeps its result for the backward pass: it is alive although no variable holds it."""
    x = torch.zeros(1000, requires_grad=True)
    assert peak_bytes(lambda: x.exp().sum().backward(), CPU) >= 2 * 4000


def test_median_of_turns_taken_alternately():
    order: list[str] = []
    found = median_seconds({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2, CPU)
    assert order == ["a", "b"] * 3 and set(found) == {"a", "b"} and all(seconds >= 0 for seconds in found.values())


def test_weight_bytes_count_tied_weights_once():
    tied, untied = (tiny_model(tie_word_embeddings=tie) for tie in (True, False))
    assert weight_bytes(untied) - weight_bytes(tied) == 4 * 64 * len(tokenizer())
    assert weight_bytes(None) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """A tiny model and its tokenizer, whose chat template repeats a system prompt."""
    where = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(where)
    tokenizer().save_pretrained(where)
    settings = json.loads((where / "tokenizer_config.json").read_text())
    settings["chat_template"] = (
        "{{ bos_token }}Answer in one sentence, and only if you know.\n"
        "{% for m in messages %}{{ m.role + ': ' + m.content }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% else %}{{ '\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    (where / "tokenizer_config.json").write_text(json.dumps(settings))
    return str(where)


COMMANDS = [
    "step --method npo_kl --template short --batch 3",
    "step --method flat --template chat --batch 3",
    "score --template short --batch 3",
    "score --template chat --batch 2",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_comparison_on_the_fixture(command, folder, tmp_path, capsys):
    """Equal values, less arithmetic, and everything in the file."""
    out = tmp_path / "bench.json"
    found = bench.main([*command.split(), "--model", folder, "--repeats", "1", "--out", str(out)])
    assert json.loads(out.read_text()) == found
    assert found["difference"] <= 2e-4
    for key in ("flops", "bytes", "seconds"):
        assert found[key]["ratio"] == approx(found[key]["naive"] / found[key]["ours"])
    assert found["flops"]["ratio"] > 1.2
    assert ("reference_once" in found) == ("npo_kl" in command)
    printed = capsys.readouterr().out
    assert f"{found['flops']['ratio']:.2f}" in printed and ("cached reference" in printed) == ("npo_kl" in command)


@pytest.mark.slow
def test_memo_takes_a_tenth_of_the_model_calls(folder, tmp_path, capsys):
    found = bench.main(["memo", "--model", folder, "--out", str(tmp_path / "bench.json")])
    passes = found["passes"]
    assert passes["ratio"] == passes["naive"] / passes["ours"] >= 10 and found["difference"] <= 2e-4
    assert json.loads((tmp_path / "bench.json").read_text()) == found
    assert f"{passes['ratio']:.2f}" in capsys.readouterr().out


def test_cached_reference_is_not_free(folder):
    """What it costs once is shown, and what the gain would be if nothing were ever read again."""
    found = bench.main([*COMMANDS[0].split(), "--model", folder, "--repeats", "0"])
    once = found["reference_once"]
    assert "seconds" not in found and min(once["flops"], once["seconds"], once["bytes"]) > 0
    unshared = found["flops"]["naive"] / (found["flops"]["ours"] + once["flops"])
    assert once["flops_ratio_if_never_reused"] == approx(unshared) and unshared < found["flops"]["ratio"]


def test_sides_that_differ_are_refused(folder, monkeypatch):
    true = bench.NAIVE["flat"]
    monkeypatch.setitem(bench.NAIVE, "flat", lambda *given: true(*given) * 1.01 + 0.01)
    with pytest.raises(ValueError, match="the two sides differ by"):
        bench.main([*COMMANDS[1].split(), "--model", folder, "--repeats", "0"])


def test_missing_model_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        bench.main(["step", "--model", str(tmp_path)])
    assert "get_smollm2.sh" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not SHARED or not REAL_MODEL.is_file(), reason="needs LETHE_SHARED and models/smollm2-135m")
@pytest.mark.parametrize(
    "command, least",
    [
        ("step --method npo_kl --template short", 1.9),
        ("step --method npo_kl --template chat", 1.75),
        ("step --method flat --template short", 1.25),
        ("step --method flat --template chat", 1.5),
        ("score --template short", 1.65),
        ("score --template chat", 2.6),
    ],
)
def test_arithmetic_saved_on_a_real_model_and_real_lengths(command, least):
    """SmolLM2-135M, TOFU rows: how many times more arithmetic the released way takes."""
    found = bench.main([*command.split(), "--data-root", f"{SHARED}/data", "--repeats", "0"])
    assert found["flops"]["ratio"] >= least
