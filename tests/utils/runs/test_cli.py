"""The command line: what is misspelt is named together with what was meant, before anything is loaded."""

from __future__ import annotations

import errno

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from tests.runs import script, target
from utils.runs.cli import errors_in_one_sentence, find_problem, refuse_overrides
from utils.runs.terminal.help import version

FINE = [
    ("unlearn", ["method=npo", "method.loss.beta=0.2", "lr=1e-5", "benchmark.rows=10"]),
    ("unlearn", ["adapter=lora", "adapter.lora.r=4", "model=llama2-7b-chat", "model.path=some/folder"]),
    ("unlearn", ["method=flat,npo", "seed=0,1", "lr=1e-5,2e-5", "method.loss.divergence=kl"]),
    ("unlearn", ["method=choice(flat,npo)", "epochs=range(1,4)"]),
    ("unlearn", ["method=glob(flat_*)"]),
    ("unlearn", ["out=runs/${method.name}", "hydra.sweep.dir=elsewhere", "hydra/launcher=basic"]),
    ("unlearn", ["+note=mine", "++method.loss.beta=1", "~refusals"]),
    ("finetune", ["split=full", "model.architecture.hidden_size=64"]),
    ("evaluate", ["rescore=true", "oracle=runs/retain90", "resamples=100"]),
]


@pytest.mark.parametrize("name, overrides", FINE)
def test_valid_overrides_pass(name, overrides):
    assert find_problem(name, overrides) is None


REFUSED = [
    ("unlearn", "metod=flat", "metod=flat: there is no key metod; did you mean method or"),
    ("unlearn", "methods=flat", "methods=flat: there is no key methods; did you mean method or"),
    ("unlearn", "method.loss.divergense=kl", "there is no key method.loss.divergense; did you mean method.loss.divergence"),
    ("unlearn", "divergence=kl", "did you mean reference or method.loss.divergence?"),
    ("unlearn", "method.loss.beta=1", "method.loss.beta=1: there is no key method.loss.beta;"),  # npo has it, flat has not
    ("unlearn", "adapter.lora.r=4", "there is no key adapter.lora.r;"),  # adapter=none has no lora
    ("unlearn", "lerning_rate=1", "lerning_rate=1: there is no key lerning_rate; there are adapter, batch_size,"),
    ("unlearn", "=3", "=3: there is no key ;"),
    ("evaluate", "epochs=3", "epochs=3: there is no key epochs;"),
    ("unlearn", "method=flta", "method=flta: there is no such method; did you mean flat?"),
    ("unlearn", "method=npo,flta", "method=flta: there is no such method; did you mean flat?"),
    ("unlearn", "method=null", "method=None: there is no such method; there are "),
    ("unlearn", "model=tiy", "model=tiy: there is no such model; did you mean tiny?"),
    ("unlearn", "launcher=fsdp", "launcher=fsdp: there is no such launcher; did you mean fsdp2?"),
    ("unlearn", "method", "method: not understood; write key=value"),
    ("unlearn", "method flat", "method flat: not understood; write key=value"),
    ("unlearn", "out=a(b", "out=a(b: not understood; write key=value, with quotes around a value that holds brackets"),
]


@pytest.mark.parametrize("name, override, message", REFUSED)
def test_refusals_name_what_was_meant(name, override, message):
    problem = find_problem(name, [override])
    assert message in problem and "\n" not in problem


@pytest.mark.parametrize("name", ["finetune", "unlearn", "evaluate"])
def test_help_is_all_that_happens(name, tmp_path):
    shown = script(tmp_path, name, "--help")
    assert shown.code == 0 and shown.err == "" and f"\n  python {name}.py " in shown.out and "\n  seed=42 " in shown.out
    assert script(tmp_path, name, "--version").out == f"lethe {version()}\n"
    refused = script(tmp_path, name, "--help", "modle=tiny")
    assert refused.code == 1 and refused.err == "--help modle=tiny: there is no such group; did you mean model?\n"
    assert not list(tmp_path.iterdir())


def test_hydra_shows_the_config(tmp_path):
    shown = script(tmp_path, "unlearn", "method=npo", "--cfg", "job")
    assert shown.code == 0 and OmegaConf.create(shown.out).method.loss._target_ == "losses.npo.NPO"


@pytest.mark.parametrize("arguments", [["metod=flat"], ["-m", "method=flta,npo"], ["split=forget7"], ["batch_size=0"]])
def test_a_refusal_is_the_only_thing_that_happens(arguments, tmp_path):
    refused = script(tmp_path, "unlearn", "model=tiny", f"model.path={target()}", *arguments, "out=run")
    assert refused.code == 1 and len(refused.err.strip().splitlines()) == 1 and refused.out == ""
    assert not list(tmp_path.iterdir())


def test_the_traceback_can_be_had(tmp_path, monkeypatch):
    monkeypatch.setenv("LETHE_TRACEBACK", "1")
    refused = script(tmp_path, "unlearn", "model=tiny", f"model.path={target()}", "split=forget7", "out=run")
    assert refused.code == 1 and "Traceback" in refused.err and "split=forget7: write one of forget01" in refused.err


def test_what_every_run_gets_by_itself_is_refused():
    refuse_overrides(["seed=1", "+model.other=x"], ("model.path", "out"))
    for word in ("out=x", "+out=x", "~out", "++model.path=y"):
        with pytest.raises(ValueError, match="is set for every run by itself; leave it out"):
            refuse_overrides(["seed=1", word], ("model.path", "out"))
    with pytest.raises(ValueError, match="split: not understood; write key=value"):
        refuse_overrides(["split"], ())


def test_a_script_ends_with_the_first_line_of_what_is_wrong(monkeypatch):
    for error in (ValueError("one\ntwo"), FileNotFoundError("one"), ZeroDivisionError("one"), HydraException("one\ntwo")):
        with pytest.raises(SystemExit) as end, errors_in_one_sentence():
            raise error
        assert str(end.value) == "one"
    with pytest.raises(SystemExit, match="a.json: No space left on device; make room on the disk"), errors_in_one_sentence():
        raise OSError(errno.ENOSPC, "No space left on device", "a.json")
    with pytest.raises(TypeError), errors_in_one_sentence():
        raise TypeError("a mistake of ours")
    monkeypatch.setenv("LETHE_TRACEBACK", "1")
    with pytest.raises(ValueError), errors_in_one_sentence():
        raise ValueError("one")


def test_a_sweep_goes_on_past_a_job_that_fails(tmp_path):
    sweep = ("seed=0,-1,1", "split=forget01", "batch_size=2", "epochs=1", "checkpoint=none", "out=runs/${seed}")
    done = script(tmp_path, "unlearn", "-m", "model=tiny", f"model.path={target()}", *sweep)
    assert done.code == 1 and "Traceback" not in done.err
    assert "seed=-1: write a whole number from 0" in done.err
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["0", "1"]
    assert all((tmp_path / "runs" / seed / "model" / "config.json").exists() for seed in "01")


def test_a_key_that_only_swept_choices_have_is_written_with_plus_signs():
    """Hydra composes once without the sweep, and would say that the key is not in its struct."""
    swept = ["method=sku,task_vector", "method.finish.coefficient=2"]
    words = "only some of the choices swept over have this key; write"
    assert find_problem("unlearn", swept) == f"{swept[1]}: {words} ++{swept[1]}"
    assert find_problem("unlearn", [swept[0], f"++{swept[1]}"]) is None
    assert find_problem("unlearn", [swept[0], "method.finish.coefficient=1,2"]) is None
    assert find_problem("unlearn", ["method=sku", swept[1]]) is None
