"""Recipes: whole settings of publications by name, weaker than every word that is typed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import utils.runs.recipes
from tests.runs import QUICK_EVALUATION, SMALL, losses, script, succeed, target
from utils import ROOT
from utils.files import read_json
from utils.runs.cli import find_problem, unfolded
from utils.runs.inherited_settings import evaluation_settings, settings_of
from utils.runs.recipes import FOLDER, SECTIONS, recipe_settings, recipes
from utils.runs.terminal.help import offered

CONFIG = ROOT / "config"
OPT, TOFU = "recipe=sku/opt-2.7b", "recipe=tofu/llama2-7b-chat"
# What is typed to run any recipe on the shipped data with the tiny model.
SHORT = ("model=tiny", "steps=2", "batch_size=2", "checkpoint=none", "snapshots=none", "precision=float32")
DATA = {
    "completion": ("benchmark.words=40", "benchmark.prefix=20", "benchmark.passages=4", "benchmark.retain_passages=4"),
    "muse": ("benchmark.texts=1", "benchmark.piece_length=64"),
}


def said(name: str, script_name: str) -> dict[str, Any] | None:
    """All that a recipe says to a script; None if it has no section for it."""
    try:
        return recipe_settings(name, script_name, ())
    except ValueError:
        return None


SECTION = {(name, script_name): said(name, script_name) for name in recipes() for script_name in SECTIONS}
EVERY = [section for section, settings in SECTION.items() if settings is not None]
every_section = pytest.mark.parametrize(("name", "script_name"), EVERY)
every_recipe = pytest.mark.parametrize("name", recipes())


def flat(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")


@cache
def keys_of(file: str, prefix: str = "") -> frozenset[str]:
    """Dotted keys of a file of config/, and of those beside it that its defaults name."""
    node = OmegaConf.to_container(OmegaConf.load(CONFIG / f"{file}.yaml"), resolve=False)
    others = [
        str(Path(file).with_name(entry)) for entry in node.get("defaults", []) if isinstance(entry, str) and entry != "_self_"
    ]
    return frozenset(flat(node, prefix)).union(*(keys_of(other, prefix) for other in others))


@every_section
def test_every_setting_has_its_key(name, script_name):
    settings = SECTION[name, script_name]
    chosen = {group: str(settings.get(group)) for group in ("model", "benchmark", "method", "adapter")}
    there = {group: choice for group, choice in chosen.items() if (CONFIG / group / f"{choice}.yaml").is_file()}
    assert there.keys() == chosen.keys() & settings.keys()
    keys = keys_of(script_name).union(there, *(keys_of(f"{group}/{choice}", f"{group}.") for group, choice in there.items()))
    assert settings.keys() <= keys


@every_recipe
def test_recipes_read_alike(name):
    text = (FOLDER / f"{name}.yaml").read_text("utf-8")
    first, *lines = text.splitlines()
    settings = SECTION[name, "unlearn"]
    starts_from_a_target = settings.get("model.path") == "???"
    assert first.startswith(f"# python unlearn.py recipe={name} ")
    assert ("model.path=" in first) == starts_from_a_target and (not starts_from_a_target or (name, "finetune") in EVERY)
    assert all(len(line) <= 130 for line in text.splitlines()) and lines[0].startswith("# ")
    assert {"model", "benchmark", "method", "lr"} <= settings.keys() and settings.keys() & {"epochs", "steps"}
    assert not [key for section in EVERY for key, value in SECTION[section].items() if value == "???" and key != "model.path"]
    for line in lines:  # every number has its source
        key, _, value = line.partition(":")
        if not line.startswith("#") and key.strip() in ("lr", "epochs", "steps", "batch_size", "weight_decay", "precision"):
            assert "#" in value, line


@pytest.mark.slow
@every_section
def test_every_section_composes(name, script_name):
    words = [f"recipe={name}"] + ["model.path=runs/target"] * (SECTION[name, script_name].get("model.path") == "???")
    assert find_problem(script_name, words) is None
    cfg = settings_of(script_name, words)
    assert cfg.recipe == name and cfg.benchmark.name == SECTION[name, script_name]["benchmark"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "script_name"), [section for section in EVERY if section[1] != "evaluate"])
def test_every_training_runs(name, script_name, tmp_path):
    settings = SECTION[name, script_name]
    words = [f"recipe={name}", *SHORT, *DATA.get(settings["benchmark"], ())]
    if script_name == "unlearn":
        # An adapter of its own, where the recipe goes on with that of the target.
        words += [f"model.path={target()}", *(["adapter=lora"] if settings.get("adapter") == "continue" else [])]
    else:
        words += [*SMALL, *(["adapter=none"] if "adapter" in settings else [])]
    succeed(tmp_path, script_name, *words, "out=run")
    known = read_json(tmp_path / "run" / "run.json")
    assert known["status"] == "finished" and known["settings"]["recipe"] == name and len(losses(tmp_path / "run")) == 2


@pytest.mark.slow
def test_a_run_of_a_recipe_is_evaluated_as_it_was_made(tmp_path):
    typed = ("split=forget01", "method=graddiff", f"model.path={target()}", "out=runs/graddiff")
    succeed(tmp_path, "unlearn", TOFU, *SHORT, *typed)
    unlearned = read_json(tmp_path / "runs" / "graddiff" / "run.json")["settings"]
    assert (unlearned["recipe"], unlearned["split"], unlearned["method"]["name"]) == (
        "tofu/llama2-7b-chat",
        "forget01",
        "graddiff",
    )
    assert (unlearned["compat"], unlearned["weight_decay"]) == ("tofu_original", 0.01)
    # What it was unlearned with is known from its folder, recipe or not.
    succeed(tmp_path, "evaluate", "model.path=runs/graddiff", "oracle=none", *QUICK_EVALUATION, "out=runs/graddiff/eval")
    evaluated = read_json(tmp_path / "runs" / "graddiff" / "eval" / "run.json")["settings"]
    assert (evaluated["split"], evaluated["compat"], "recipe" in evaluated) == ("forget01", "tofu_original", False)


@pytest.mark.slow
def test_a_sweep_over_recipes_runs_each_as_it_stands(tmp_path):
    sweep = (f"{OPT},llmu/opt-1.3b", *SHORT, f"model.path={target()}", "out=runs/${method.name}")
    succeed(tmp_path, "unlearn", "-m", *sweep)
    made = {run.name: read_json(run / "run.json")["settings"] for run in (tmp_path / "runs").iterdir()}
    assert {name: (s["recipe"], s["lr"], s["steps"]) for name, s in made.items()} == {
        "sku": ("sku/opt-2.7b", 2e-4, 2),
        "llmu_published": ("llmu/opt-1.3b", 2e-6, 2),
    }


def test_what_is_typed_wins_in_any_order():
    for words in ([OPT, "lr=1e-6", "method.finish.coefficient=0.5"], ["lr=1e-6", "method.finish.coefficient=0.5", OPT]):
        cfg = settings_of("unlearn", words)
        assert (cfg.lr, cfg.steps, cfg.seed, cfg.model.dtype) == (1e-6, 1000, 8888, "float32")
        assert (cfg.method.name, cfg.method.finish.coefficient, cfg.method.loss.forget_weight) == ("sku", 0.5, 2.5)


def test_another_choice_of_a_group_leaves_out_what_was_said_of_the_first():
    words = unfolded("unlearn", [OPT, "method=npo", "model=tiny", "benchmark=tofu"])
    keys = [word.split("=")[0] for word in words]
    assert not [key for key in keys if key.startswith(("method.", "model.", "benchmark."))]
    assert {"lr", "steps", "max_grad_norm"} <= set(keys)
    assert "split" not in recipe_settings("tofu/phi-1.5", "unlearn", {"benchmark"})
    assert recipe_settings("tofu/phi-1.5", "unlearn", {"model"})["model.path"] == "???"  # a target is needed all the same
    assert unfolded("unlearn", words) == words


def test_a_base_is_weaker_than_what_stands_on_it():
    small, large = (recipe_settings(f"sku/{name}", "unlearn", ()) for name in ("llama2-7b", "llama2-13b"))
    assert {key for key in large if large[key] != small[key]} == {"model", "adapter.lora.r", "adapter.lora.alpha"}
    assert large["seed"] == 8888 and "lr" not in recipe_settings("sku/llama2-13b", "evaluate", ())


def test_an_evaluation_of_a_run_may_follow_a_recipe():
    trained = {"model": {"name": "tiny"}, "benchmark": {"name": "tofu"}, "split": "forget05", "compat": "none"}
    cfg = evaluation_settings(trained, [TOFU])
    assert (cfg.benchmark.rows, cfg.compat, cfg.split, cfg.model.name) == (300, "tofu_original", "forget10", "llama2-7b-chat")
    assert evaluation_settings(trained, []).split == "forget05"


REFUSED = [
    ("unlearn", "recipe=sku/opt-2.8b", "recipe=sku/opt-2.8b: there is no such recipe; did you mean sku/opt-2.7b or "),
    ("unlearn", "recipe=sku/opt-2.7b,sku/opt", "recipe=sku/opt: there is no such recipe"),
    ("unlearn", "recipe=null", "recipe=None: there is no such recipe; there are "),
    ("unlearn", "recipe=glob(sku/*)", "recipe=glob(sku/*): write recipe=NAME, or for a sweep -m recipe=NAME,NAME"),
    ("unlearn", "+recipe=sku/opt-2.7b", "+recipe=sku/opt-2.7b: write recipe=NAME"),
    ("finetune", "recipe=sku/opt-2.7b", "recipe=sku/opt-2.7b: says nothing to finetune.py, only to unlearn.py and evaluate.py;"),
    ("finetune", "recipe=tofu/phi-1.5,sku/opt-2.7b", "recipe=sku/opt-2.7b: says nothing to finetune.py"),
]


@pytest.mark.parametrize(("name", "word", "sentence"), REFUSED)
def test_refusals(name, word, sentence):
    problem = find_problem(name, [word])
    assert problem.startswith(sentence) and "\n" not in problem


def test_a_recipe_without_a_start_asks_for_it_before_anything_is_made(tmp_path):
    refused = script(tmp_path, "unlearn", TOFU, "model=tiny", "out=run")
    assert refused.code == 1 and refused.err.strip() == (
        "recipe=tofu/llama2-7b-chat: unlearn.py starts from a trained target; make it with: python finetune.py "
        "recipe=tofu/llama2-7b-chat out=runs/target, then add model.path=runs/target"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ("unlearn: {lrr: 1.0e-5}", "recipe=mine/one: lrr=1e-05: there is no key lrr; did you mean lr"),
        ("unlern: {lr: 1.0e-5}\nunlearn: {}", "recipe=mine/one: unlern={lr:1e-05}: there is no key unlern"),
        ("unlearn: {method: skuu}", "method=skuu: there is no such method; did you mean sku?"),
        ("unlearn: {lr: 1.0e-5}\nbase: mine/two", "recipe=mine/two: there is no such recipe"),
    ],
)
def test_mistakes_in_a_recipe_are_named(section, sentence, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "one.yaml").write_text(section)
    monkeypatch.setattr(utils.runs.recipes, "FOLDER", tmp_path)
    assert find_problem("unlearn", ["recipe=mine/one"]).startswith(sentence)


@pytest.mark.parametrize("name", ["finetune", "unlearn", "evaluate"])
def test_help_offers_recipes_that_say_something_to_the_script(name):
    for recipe in recipes():
        try:
            recipe_settings(recipe, name, ())
            says = True
        except ValueError:
            says = False
        assert (f"recipe/{recipe}" in [file.name for file in offered(name, "recipe")]) == says
