"""The command line of task arithmetic: the formula in its help is what it computes, and errors are one sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scripts.combine_weights import main
from tests.models import moved, tiny_model, with_lora
from tests.utils.weights.checkpoint_files import SMALL, assert_equal, folder, saved, tensors
from utils import ROOT


@pytest.fixture
def models(tmp_path, monkeypatch) -> Path:
    """Run folders a, b, c, d with w = 1, 3, 4, 7; the current folder is theirs."""
    for name, value in zip("abcd", (1.0, 3.0, 4.0, 7.0), strict=True):
        folder(tmp_path / name / "model", w=torch.tensor([value]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(line: str) -> None:
    main(line.split())


@pytest.mark.parametrize(
    "line, wanted",
    [
        ("--base a --minus 1.5 b", -2.0),  # 1 - 1.5 (3 - 1)
        ("--base a --plus 0.5 b", 2.0),  # 1 + 0.5 (3 - 1)
        ("--base a --minus 2 d c", -5.0),  # 1 - 2 (7 - 4)
        ("--base a/model --plus 1 b --plus 2 d/model c --minus 0.5 c", 7.5),  # 1 + 2 + 6 - 0.5 (4 - 1)
    ],
)
def test_formula_by_hand(models, line, wanted, capsys):
    call(f"{line} --out out")
    assert tensors(models / "out")["w"].tolist() == [wanted]
    assert capsys.readouterr().out == "out\n"


def test_type_of_the_result(models):
    call("--base a --minus 0.5 b --dtype float16 --out out")
    assert_equal(tensors(models / "out"), {"w": torch.tensor([0.0], dtype=torch.float16)})


def test_a_model_is_replaced_only_when_told(models):
    call("--base a --minus 1 b --out out")
    with pytest.raises(SystemExit, match="--out out exists; choose another folder, or replace the model in it with --overwrite"):
        call("--base a --minus 2 b --out out")
    assert tensors(models / "out")["w"].tolist() == [-1.0]
    call("--base a --minus 2 b --out out --overwrite")
    assert tensors(models / "out")["w"].tolist() == [-3.0]


def test_an_adapter_gives_an_adapter(tmp_path):
    base = saved(tiny_model(**SMALL), tmp_path / "base")
    adapted = with_lora(tiny_model(**SMALL))
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    moved(adapted).save_pretrained(tmp_path / "bad")
    call(f"--base {base} --minus 2 {tmp_path / 'bad'} --out {tmp_path / 'out'}")
    before, after = tensors(tmp_path / "bad"), tensors(tmp_path / "out")
    assert_equal(after, {name: tensor * (-2.0 if "lora_B" in name else 1.0) for name, tensor in before.items()})
    with pytest.raises(SystemExit, match="bad is an adapter, not a whole model; merge it"):
        call(f"--base {base} --plus 2 {tmp_path / 'bad'} --out {tmp_path / 'other'}")


@pytest.mark.parametrize(
    "line, reason",
    [
        ("", "nothing to add; give --plus C FINETUNED"),
        ("--minus b", "--minus b: b is no number; write --minus C FINETUNED"),
        ("--plus 1", "--plus 1: write --plus C FINETUNED .ORIGIN., one or two folders after the number"),
        ("--plus 1 a b c", "--plus 1 a b c: write --plus C FINETUNED .ORIGIN., one or two folders"),
        ("--minus -1 b", "--minus -1: the number must be above 0; --plus adds and --minus subtracts"),
        ("--minus nan b", "--minus nan: the number must be above 0"),
        ("--minus inf b", "coefficient=inf: write a number above 0"),
        ("--minus 1 a", "hold the same weights, so their task vector is zero"),
        ("--minus 1 runs/nowhere", "runs/nowhere holds no model; give a run folder, a model folder or a Hub name"),
    ],
)
def test_errors_are_one_sentence(models, line, reason):
    with pytest.raises(SystemExit, match=reason) as refusal:
        call(f"--base a {line} --out out")
    assert "\n" not in str(refusal.value)
    assert sorted(path.name for path in models.iterdir()) == ["a", "b", "c", "d"]


def test_help_states_the_formula():
    command = [sys.executable, str(ROOT / "scripts" / "combine_weights.py"), "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "theta_out = theta_base + sum of C * (theta_FINETUNED - theta_ORIGIN)" in shown
