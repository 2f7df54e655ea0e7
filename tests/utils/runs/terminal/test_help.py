"""--help: read from config/ alone, complete, in agreement with what the scripts accept."""

from __future__ import annotations

import re
import tomllib
from functools import partial

import pytest
from omegaconf import DictConfig, OmegaConf

from utils import ROOT
from utils.checks import choose
from utils.runs.cli import compose_settings, groups_of
from utils.runs.rules import DIALS
from utils.runs.terminal import dials, help
from utils.runs.terminal.dials import ConfigFile, files
from utils.runs.terminal.help import asked_for, dials_of, offered

SCRIPTS = ("finetune", "unlearn", "evaluate")
GROUPS = sorted({group for script in SCRIPTS for group in groups_of(script)} - {"recipe"})
FILES = ["base", "training", *SCRIPTS, *(file.name for group in GROUPS for file in files(group))]
each_script = pytest.mark.parametrize("script", SCRIPTS)


@pytest.mark.parametrize("name", FILES)
def test_every_dial_says_what_it_means(name):
    """In the file, in the one that it builds on, or beside the node that it lies in."""
    told = ConfigFile(name).dials().values()
    assert [dial.key for dial in told if not dial.meaning and not dial.node] == []


@each_script
def test_all_that_a_script_takes_is_offered_and_nothing_else(script):
    cfg = compose_settings(script)
    offered = {dial.key: dial for dial in dials_of(script)}
    assert {key.partition(".")[0] for key in offered} == {str(key) for key in cfg} | {"recipe"}
    assert {key for key, dial in offered.items() if dial.group} == set(groups_of(script))
    assert {key for key, dial in offered.items() if not dial.group} <= keys(cfg)


@pytest.mark.parametrize("name", FILES[5:])
def test_dials_of_a_choice_are_its_keys(name):
    group = name.partition("/")[0]
    written = OmegaConf.load(ROOT / "config" / f"{name}.yaml")
    assert {dial.key for dial in ConfigFile(name).own()} <= keys(written, f"{group}.")


def keys(cfg: DictConfig, prefix: str = "") -> set[str]:
    found = set()
    for key in cfg:
        found.add(f"{prefix}{key}")
        node = cfg._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none():
            found |= keys(node, f"{prefix}{key}.")
    return found


@pytest.mark.parametrize("key", [key for key, check in DIALS.items() if isinstance(check, partial) and check.func is choose])
def test_the_values_that_are_accepted_are_told(key):
    told = {dial.key: dial for script in SCRIPTS for dial in dials_of(script)} | ConfigFile("model/tiny").dials()
    if key in told:  # of others the name of the file says it
        words = set(re.findall(r"\w+", told[key].meaning)) | {told[key].default}
        assert set(DIALS[key].keywords["valid"]) <= words


def test_a_method_with_its_formula_sources_and_defaults():
    shown = asked_for("unlearn", ["--help", "method=npo_kl"])
    assert shown.startswith("method=npo_kl\n\n  python unlearn.py method=npo_kl ")
    assert "\n    L = -(2 / beta) mean_b log sigmoid(" in shown and "\nAs method=npo, with method.loss.retain=kl.\n" in shown
    (beta,) = re.findall(r"^  method\.loss\.beta=0\.1 +(\S.*?)^  method", shown, re.MULTILINE | re.DOTALL)
    assert " ".join(beta.split()).endswith("arXiv 2404.05868, released code")
    assert "method.loss.retain=kl " in shown and "none | nll | kl" in shown and "method.loss.kl_span=<compat>" in shown


def test_a_model_file_says_what_its_values_are_and_another_what_they_mean():
    shown = " ".join(asked_for("finetune", ["-h", "model=opt-1.3b"]).split())
    assert "model.epochs.finetune=5 epochs of finetune.py; TOFU" in shown
    assert "model.path=facebook/opt-1.3b run folder, model folder or Hub name" in shown


def test_what_there_is_to_choose_from():
    assert [file.name for file in offered("finetune", "method")] == ["method/memorise"]
    assert "method/memorise" not in [file.name for file in offered("unlearn", "method")]
    only = {file.name for file in offered("evaluate", "benchmark")} - {file.name for file in offered("unlearn", "benchmark")}
    assert only == {"benchmark/nlg", "benchmark/nlu", "benchmark/utility"}
    assert "\n  npo_rt  " in asked_for("unlearn", ["--help", "method"])
    with pytest.raises(ValueError, match="--help method=npo: finetune.py has no such method; there are memorise"):
        asked_for("finetune", ["--help", "method=npo"])
    with pytest.raises(ValueError, match="--help method: there is no such group; there are benchmark, model, measure"):
        asked_for("evaluate", ["--help", "method"])


def test_comments_of_every_form_are_read(tmp_path, monkeypatch):
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing" / "one.yaml").write_text(
        '# python unlearn.py thing=one      What it is\n# More of it.\nname: one\na: "x # y"   # a text\nb:   # of both\n  c: 1\n'
        "  d: ${other.key}\ne: {f: 2, g: [1, 2]}  # in one line\nh: ${seed}\n"
    )
    (tmp_path / "thing" / "two.yaml").write_text("defaults: [one, _self_]\nb: {c: 3}  # larger\n")
    monkeypatch.setattr(dials, "CONFIG", tmp_path)
    one, two = ConfigFile("thing/one"), ConfigFile("thing/two").dials()
    assert one.commands == {"python unlearn.py thing=one": "What it is"} and one.words == ["More of it."]
    assert {key: (dial.shown, dial.meaning, dial.node) for key, dial in one.dials().items()} == {
        "thing.a": ("'x # y'", "a text", ""),
        "thing.b": ("", "of both", ""),
        "thing.b.c": ("1", "", "of both"),
        "thing.e": ("", "in one line", ""),
        "thing.e.f": ("2", "", "in one line"),
        "thing.e.g": ("[1,2]", "", "in one line"),
    }
    assert (two["thing.b.c"].default, two["thing.b"].meaning) == ("3", "of both; here: larger")


def test_one_place_holds_the_version():
    written = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert asked_for("unlearn", ["--version"]) == f"lethe {written}" == f"lethe {help.version()}"
    assert asked_for("unlearn", ["seed=1", "-m"]) is None
