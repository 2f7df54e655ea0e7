"""Settings follow the weights: what a run folder says of its model is believed, and contradicted only twice over."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.runs import QUICK_EVALUATION, SMALL, compose_settings, script, succeed
from utils.files import read_json, write_json
from utils.runs.cli import find_problem
from utils.runs.inherited_settings import inherited, settings_of
from utils.runs.lineage import Origin

STEPS = ("steps=1", "batch_size=2", "warmup=0", "checkpoint=none")
OTHER = ("model.template.answer_tag='A: '", "model.max_length=200", "benchmark.rows=4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Holds runs/target, whose prompts are not those of its model file, and runs/ga, unlearned from it."""
    where = tmp_path_factory.mktemp("lineage")
    succeed(where, "finetune", "model=tiny", "split=full", *SMALL, *OTHER, *STEPS, "out=runs/target")
    succeed(where, "unlearn", "method=ga", "model.path=runs/target", "split=forget05", *STEPS, "snapshots=1", "out=runs/ga")
    return where


def test_a_run_is_read_as_its_model_was_trained(folder):
    settings = read_json(folder / "runs" / "ga" / "run.json")["settings"]
    assert settings["model"]["template"]["answer_tag"] == "A: " and settings["model"]["max_length"] == 200
    assert settings["model"]["architecture"]["hidden_size"] == 32 and settings["benchmark"]["rows"] == 4


@pytest.mark.parametrize("path", ["runs/ga", "runs/ga/model", "runs/ga/snapshots/1"])
def test_an_evaluation_inherits_the_forget_split_too(folder, path, monkeypatch):
    monkeypatch.chdir(folder)
    cfg = settings_of("evaluate", [f"model.path={path}"])
    assert (cfg.split, cfg.model.template.answer_tag, cfg.benchmark.rows) == ("forget05", "A: ", 4)
    assert settings_of("evaluate", ["model.path=runs/target"]).split == "forget10"  # what was memorised is no forget split


def test_the_command_line_may_change_what_is_no_prompt(folder, monkeypatch):
    monkeypatch.chdir(folder)
    words = ["model.path=runs/ga", "split=forget01", "model.max_length=150", "model.dtype=bfloat16", "benchmark.rows=2"]
    cfg = settings_of("evaluate", words)
    assert (cfg.split, cfg.model.max_length, cfg.model.dtype, cfg.benchmark.rows) == ("forget01", 150, "bfloat16", 2)
    assert cfg.model.template.answer_tag == "A: "


def test_another_benchmark_keeps_the_models_prompts(folder, monkeypatch):
    monkeypatch.chdir(folder)
    cfg = settings_of("evaluate", ["model.path=runs/ga", "benchmark=knowundo"])
    assert (cfg.benchmark.name, cfg.split, cfg.model.template.answer_tag) == ("knowundo", "unlearn", "A: ")


def test_names_of_fields_are_read_and_inherited(folder, monkeypatch):
    monkeypatch.chdir(folder)
    words = ["benchmark=own", "benchmark.forget=a.jsonl", "benchmark.fields={question: prompt, answer: chosen}"]
    assert find_problem("unlearn", words) is None
    settings = read_json(folder / "runs" / "ga" / "run.json")["settings"]
    own = OmegaConf.to_container(compose_settings("unlearn", *words).benchmark, resolve=True)
    cfg = compose_settings("evaluate", *inherited({**settings, "benchmark": own, "split": "forget"}, []))
    assert dict(cfg.benchmark.fields) == {"question": "prompt", "answer": "chosen"} and cfg.benchmark.forget == "a.jsonl"


def test_logs_of_other_code_are_of_no_model_but_one_that_is_named():
    cfg = settings_of("evaluate", ["from_logs=TOFU_EVAL.json"])
    assert dict(cfg.model) == {"name": "log", "path": None, "data_root": "hub"} and cfg.benchmark.data_root == "hub"
    named = settings_of("evaluate", ["from_logs=TOFU_EVAL.json", "model=llama3.2-1b", "data_root=here"])
    assert (named.model.name, named.model.path, named.data_root) == ("llama3.2-1b", None, "here")
    for words in (["recipe=open-unlearning/tofu_llama3.2-1b"], ["model.path=runs/x"]):
        assert settings_of("evaluate", ["from_logs=a.json", *words]).model.path is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["model=tiny", "model.template.answer_tag='B: '"], "model.template.answer_tag='B: ': .* was trained with 'A: '"),
        (
            ["model=llama2-7b-chat"],
            r"model.template.question_start='\[INST\] ': the model in runs/ga was trained with 'Question: '",
        ),
        (["model.tokenizer=elsewhere"], "model.tokenizer='elsewhere': the model in runs/ga was trained with"),
    ],
)
def test_other_prompts_are_refused_unless_said_twice(folder, monkeypatch, words, sentence):
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match=sentence):
        settings_of("evaluate", ["model.path=runs/ga", *words])
    cfg = settings_of("evaluate", ["model.path=runs/ga", *words, "override_model=true"])
    assert cfg.model.template.answer_tag != "A: " or cfg.model.tokenizer == "elsewhere"


def test_what_follows_another_setting_goes_on_following():
    """data_root is that of the model unless it is said otherwise, also where the model's was not the usual one."""
    trained = OmegaConf.to_container(compose_settings("unlearn", "model.data_root=theirs"), resolve=True)
    words = inherited(trained, ["model.data_root=mine"], "evaluate")
    cfg = compose_settings("evaluate", *words, "model.data_root=mine")
    assert (cfg.model.data_root, cfg.data_root, cfg.benchmark.data_root) == ("mine", "mine", "mine")
    apart = OmegaConf.to_container(compose_settings("unlearn", "model.data_root=theirs", "data_root=other"), resolve=True)
    cfg = compose_settings("evaluate", *inherited(apart, []))
    assert (cfg.model.data_root, cfg.data_root, cfg.benchmark.data_root) == ("theirs", "other", "other")


def test_a_model_of_no_run_needs_its_file(folder, monkeypatch):
    monkeypatch.chdir(folder)
    shutil.copytree("runs/ga/model", "bare", dirs_exist_ok=True)
    for path in ("bare", "someone/model-7b"):
        with pytest.raises(ValueError, match=f"model.path={path}: is no run folder .*: model=NAME, one of gemma-7b-it, .*tiny"):
            settings_of("unlearn", [f"model.path={path}"])
        assert settings_of("unlearn", ["model=tiny", f"model.path={path}"]).model.template.answer_tag == "Answer: "
    assert settings_of("finetune", []).model.path is None


def test_a_run_that_is_not_finished_is_no_model_but_its_snapshots_are(folder, monkeypatch, tmp_path):
    shutil.copytree(folder / "runs" / "ga", tmp_path / "ga")
    monkeypatch.chdir(tmp_path)
    write_json(Path("ga/run.json"), read_json(Path("ga/run.json")) | {"status": "running"})
    for path in ("ga", "ga/model"):
        with pytest.raises(ValueError, match=f"model.path={path}: the run in ga is not finished; .* one of its snapshots"):
            settings_of("evaluate", [f"model.path={path}"])
    assert settings_of("evaluate", ["model.path=ga/snapshots/1"]).split == "forget05"


def test_a_model_file_that_is_gone_is_named(folder, monkeypatch, tmp_path):
    shutil.copytree(folder / "runs" / "ga", tmp_path / "ga")
    monkeypatch.chdir(tmp_path)
    capsule = read_json(Path("ga/run.json"))
    capsule["settings"]["model"]["name"] = "mine"
    write_json(Path("ga/run.json"), capsule)
    with pytest.raises(ValueError, match="model.path=ga: was made with model=mine, which is no file of config/model"):
        settings_of("evaluate", ["model.path=ga"])


@pytest.mark.slow
def test_every_job_of_a_sweep_follows_its_own_model(folder):
    models = "model.path=runs/target,runs/ga"
    done = succeed(folder, "evaluate", "-m", models, "oracle=none", *QUICK_EVALUATION, "out=${model.path}/eval")
    assert "as in runs/target:" in done.out + done.err and "as in runs/ga:" in done.out + done.err
    known = [read_json(folder / "runs" / name / "eval" / "run.json") for name in ("target", "ga")]
    assert [capsule["settings"]["split"] for capsule in known] == ["forget10", "forget05"]
    assert [capsule["role"] for capsule in known] == ["target", "method"]  # as the runs say of themselves


def test_what_contradicts_the_run_ends_the_program_in_a_sentence(folder):
    done = script(folder, "evaluate", "model.path=runs/ga", "model=opt-1.3b", "oracle=none")
    assert done.code == 1 and "the model in runs/ga was trained with" in done.last_words and "Traceback" not in done.err


def test_a_line_of_runs_ends_where_no_run_says_more(folder, monkeypatch):
    monkeypatch.chdir(folder)
    origin = Origin.of("runs/ga/snapshots/1")
    assert [(each.folder.as_posix(), each.part) for each in origin.line()] == [("runs/ga", "snapshots"), ("runs/target", "model")]
    assert Origin.of(None) is Origin.of("someone/model-7b") is None
