"""A study's file and what a command line says over it; every wrong one is one sentence."""

from __future__ import annotations

import pytest

from utils.studies import study as module
from utils.studies.study import read_study, studies

PLAIN = """
title: A study
common: {model: tiny, benchmark: tofu}
unlearn: {model: {path: "@target"}, split: forget10}
evaluate: {split: forget10, oracle: "@oracle"}
models:
  target: {split: full}
  oracle: {split: retain90, seeds: [100, 101]}
  base: {path: some/model}
rows:
  ga:
  npo: {lr: 1e-5, label: NPO, evaluate: {probe: mcq}}
  tuned_ga: {method: ga, loss: {beta: 0.1}, seeds: [7]}
  log: {evaluate: {from_logs: a.json}, role: log}
seeds: [0, 1]
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Puts study files in place: name -> text."""
    monkeypatch.setattr(module, "FOLDER", tmp_path)

    def files(**texts: str) -> None:
        for name, text in texts.items():
            path = tmp_path / f"{name}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return files


def sentence(study: str, *overrides: str) -> str:
    with pytest.raises(ValueError) as error:
        read_study(study, overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_entries_know_script_role_seeds_and_settings(write):
    write(plain=PLAIN)
    entries = read_study("plain").entries
    told = {name: (one.kind, one.script, one.role, one.seeds, one.label) for name, one in entries.items()}
    assert told == {
        "target": ("models", "finetune", "target", (42,), "target"),
        "oracle": ("models", "finetune", "oracle", (100, 101), "oracle"),
        "base": ("models", None, "untouched", (42,), "base"),
        "ga": ("rows", "unlearn", "method", (0, 1), "ga"),
        "npo": ("rows", "unlearn", "method", (0, 1), "NPO"),
        "tuned_ga": ("rows", "unlearn", "method", (7,), "tuned_ga"),
        "log": ("rows", None, "log", (0,), "log"),
    }
    shared = {"model": "tiny", "benchmark": "tofu", "model.path": "@target", "split": "forget10"}
    assert entries["ga"].settings == {**shared, "method": "ga"}  # a row without a method is named after it
    assert entries["tuned_ga"].settings == {**shared, "method": "ga", "loss.beta": 0.1}  # nested or dotted, it is the same
    assert entries["npo"].evaluate == {"probe": "mcq"} and entries["npo"].settings["lr"] == 1e-5
    assert entries["base"].path == "some/model" and entries["base"].settings == {}


def test_a_base_is_taken_over_key_by_key_and_entries_are_taken_out(write):
    write(plain=PLAIN, above="base: plain\ntitle: Above\nrows: {npo: {lr: 3e-5}, ga: false, dpo: }\nseeds: [5]\n")
    below, above = read_study("plain"), read_study("above")
    assert above.title == "Above" and above.common == below.common and above.seeds == [5]
    assert list(above.rows) == ["npo", "tuned_ga", "log", "dpo"]
    assert (above.entries["npo"].settings["lr"], above.entries["npo"].label) == (3e-5, "NPO")


def test_the_command_line_says_otherwise(write):
    write(plain=PLAIN)
    words = ["rows.npo.lr=2e-4", "rows.npo.evaluate.split=forget05", "common.model=phi-1.5", "seeds=3", "rows.ga=false"]
    said = read_study("plain", [*words, "launch.partition=gpu", "evaluations={plain:{},asked:{probe:mcq}}", "baseline=npo"])
    npo = said.entries["npo"]
    assert (npo.settings["lr"], npo.evaluate, npo.seeds) == (2e-4, {"probe": "mcq", "split": "forget05"}, (3,))
    assert said.common["model"] == "phi-1.5" and "ga" not in said.entries and said.launch == {"partition": "gpu"}
    assert list(said.evaluations) == ["plain", "asked"] and said.baseline == "npo"
    assert read_study("plain").rows["npo"]["lr"] == 1e-5  # the file is as it was


def test_studies_lie_in_folders_too(write):
    write(**{"tofu/small": PLAIN, "plain": PLAIN})
    assert studies() == ["plain", "tofu/small"] and read_study("tofu/small").name == "tofu/small"


@pytest.mark.parametrize(
    "text, said",
    [
        ("title: [", "study x: its file is damaged"),
        ("- a\n", "study x: its file holds no keys"),
        ("rows: {ga: }", "study x: title=: write what the study is called, in its file"),
        ("title: t\nrow: {}", "study x: there is no key row; did you mean rows?"),
        ("title: 5", "study x: title=5: write a text"),
        ("title: t\nrows: [ga]", "study x: rows=['ga']: write its options one by one"),
        ("title: t\nrows:", "study x: rows=None: write its options one by one"),
        ("title: t\nrows: {ga: 5}", "study x: rows.ga=5: write its options one by one"),
        ("title: t\nrows: {a/b: {method: ga}}", "study x: rows entry=a/b: write a name"),
        ("title: t\nrows: {ga: {label: [a]}}", "study x: rows.ga.label=['a']: write a text"),
        ("title: t\nrows: {ga: {processes: 0}}", "study x: rows.ga.processes=0: write a whole number from 1"),
        ("title: t\nrows: {ga: {role: methd}}", "study x: rows.ga.role=methd: write one of untouched"),
        ("title: t\nrows: {ga: {seed: 3}}", "study x: rows.ga.seed=3: a study sets it by itself; write seeds, of the study"),
        ("title: t\ncommon: {out: here}", "study x: common.out=here: a study sets it by itself; write pool=DIR"),
        ("title: t\nmodels: {a: {path: p, lr: 1}}", "study x: models.a=lr: write nothing beside path"),
        ("title: t\nmodels: {ga: {split: full}}\nrows: {ga: }", "study x: rows=ga: write a name that no other"),
        ("title: t\nrows: {plain: {method: ga}}", "study x: evaluations=['plain']: write names that no model"),
        ("title: t\nevaluations: {}", "study x: evaluations={}: write at least one"),
        ("title: t\nseeds: []", "study x: seeds=[]: write one or more different whole numbers"),
        ("title: t\nseeds: [1, 1]", "study x: seeds=[1, 1]: write one or more different whole numbers"),
        ("title: t\nseeds: five", "study x: seeds=five: write a list"),
        ("title: t\nkeep: all", "study x: keep=all: write one of model, adapter, scores"),
        ("title: t\nparallel: 0", "study x: parallel=0: write a whole number from 1"),
        ("title: t\ntune: 5", "study x: tune=5: write options"),
        ("title: t\nclaims: one", "study x: claims=one: write a list"),
        ("title: t\nrows: {ga: }\nbaseline: npo", "study x: baseline=npo: write ga"),
        (
            "title: t\nevaluate: {oracle: '@orcale'}\nmodels: {oracle: {split: full}}",
            "study x: evaluate.oracle=@orcale: write @oracle",
        ),
        ("title: t\nevaluations: {plain: {oracle: '@no'}}\nmodels: {o: }", "study x: evaluations.plain.oracle=@no: write @o"),
        ("title: t\nrows: {ga: {model.path: '@a b'}}", "study x: @a b: not understood; write @NAME"),
        ("title: t\nbase: nowhere", "nowhere: there is no such study"),
        ("title: t\nbase: x", "study x: base=x: takes over itself (x -> x); name another study"),
    ],
)
def test_a_wrong_file_is_one_sentence(write, text, said):
    write(x=text)
    assert sentence("x").startswith(said)


@pytest.mark.parametrize(
    "override, said",
    [
        ("rows.gaa.lr=1", "rows.gaa.lr=1: write rows.ENTRY.SETTING=VALUE, or rows.ENTRY=false for none; did you mean ga?"),
        ("rows.ga=1", "rows.ga=1: write rows.ENTRY.SETTING=VALUE, or rows.ENTRY=false for none"),
        ("row.ga.lr=1", "row.ga.lr=1: a study has no key row; did you mean rows?"),
        ("title=x", "title=x: a study has no key title"),
        ("seeds.0=1", "seeds.0=1: seeds has no parts; write seeds=VALUE"),
        ("seeds=0,1", "seeds=0,1: write [...] around a list"),
        ("keep=[", "keep=[: not understood"),
        ("launcher=5", "launcher=5: write a text"),
    ],
)
def test_a_wrong_override_is_one_sentence(write, override, said):
    write(plain=PLAIN)
    assert sentence("plain", override).startswith(f"study plain: {said}")


def test_a_name_that_there_is_not(write):
    write(plain=PLAIN)
    assert sentence("plian") == "plian: there is no such study; did you mean plain?"


def test_what_is_shipped_is_found():
    assert "tofu_tiny" in studies() and read_study("tofu_tiny").name == "tofu_tiny"
