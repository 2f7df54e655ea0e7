"""evaluate.py: fifteen numbers from what was saved, each oracle scored once, nothing compared that cannot be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

import utils.runs.oracles
import utils.runs.score
import utils.weights.reinforced
from data.benchmarks.tofu import Tofu
from metrics.benchmarks.tofu_tables import TofuMetrics
from tests.models import tiny_model, tokenizer
from tests.resources import resources
from tests.runs import QUICK_EVALUATION, compose_settings, metrics, run, target
from utils.engine import token_cache
from utils.evaluation import scoring
from utils.evaluation.numbers import metrics_from_files
from utils.evaluation.results import ResultsError
from utils.files import read_json, read_rows, write_json, write_parquet
from utils.items.benchmark import Resources
from utils.items.saved import Saved
from utils.runs.load import make_encoder
from utils.runs.run import RunError
from utils.runs.score import add_extras
from utils.runs.settings import SettingsError, check_evaluation
from utils.weights.models import save_model

TASKS = ("forget", "retain", "real_authors", "world_facts", "holdout")
NAMES = {f"{task}_{part}" for task in TASKS[:4] for part in ("prob", "rougeL_recall", "truth_ratio")}
NAMES |= {"model_utility", "forget_quality", "ks_statistic"}


def evaluate(folder: Path, *overrides: object, out: str = "eval") -> Path:
    models = (f"model.path={target()}", "trust_oracle=true")  # whoever made the oracles of these tests did not say of what
    run(folder, "evaluate", "split=forget05", *models, *QUICK_EVALUATION, *overrides, f"out={out}")
    return folder / out


@pytest.fixture
def oracle(tmp_path) -> Path:
    """A checkpoint folder that nobody has evaluated."""
    model = tiny_model(seed=5, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    save_model(model, tokenizer(), tmp_path / "oracle", torch.float32)
    return tmp_path / "oracle"


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory) -> Path:
    """A folder with `oracle` (a checkpoint) and `eval`, an evaluation that compares with it."""
    folder = tmp_path_factory.mktemp("evaluated")
    model = tiny_model(seed=5, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    save_model(model, tokenizer(), folder / "oracle", torch.float32)
    evaluate(folder, f"oracle={folder}/oracle")
    return folder


@pytest.fixture
def no_model(monkeypatch):
    def load(*_):
        pytest.fail("a model was loaded")

    monkeypatch.setattr(utils.weights.reinforced, "load_model", load)


@pytest.fixture
def scored(monkeypatch) -> list[tuple[str, ...]]:
    """The tasks of each call of `score` during the test."""
    calls, original = [], scoring.score

    def score(engine, encoder, requests, *rest):
        calls.append(tuple(dict.fromkeys(request.task for request in requests)))
        return original(engine, encoder, requests, *rest)

    monkeypatch.setattr(utils.runs.score, "score", score)
    return calls


def test_an_answer_without_room_is_refused_before_a_model_is_loaded(no_model, tmp_path):
    with pytest.raises(scoring.ScoreError, match="no token of the answer to .* fits in max_length=8: raise it"):
        evaluate(tmp_path, "model.max_length=8", "oracle=none")


def test_there_are_fifteen_numbers_each_with_its_definition(evaluated):
    found = metrics(evaluated / "eval")
    assert set(found) == NAMES
    for name, metric in found.items():
        assert set(metric) == {"value", "n", "ci95", "definition"} and metric["n"] in (3, 9), name
        assert np.isfinite(metric["value"]) and "arXiv 2401.06121" in metric["definition"], name


def test_the_numbers_follow_from_the_saved_files(evaluated):
    folder = evaluated / "eval"
    scores = pd.read_parquet(folder / "scores.parquet")
    own = scores[(scores["task"] == "forget") & (scores["role"] == "answer")]
    assert metrics(folder)["forget_prob"]["value"] == pytest.approx(np.mean([np.exp(x.mean()) for x in own["logp"]]))
    again = TofuMetrics("geometric").numbers(
        Saved(scores, read_rows(folder / "generations.jsonl"), pd.read_parquet(folder / "oracle.parquet"), resamples=100)
    )
    assert {name: metric.to_json() for name, metric in again.items()} == json.loads((folder / "metrics.json").read_text())


def test_every_number_knows_whom_its_items_are_about(evaluated):
    known = read_json(evaluated / "eval" / "run.json")
    assert known["role"] == "untouched"  # no run made this model
    cfg = OmegaConf.create({**known["settings"], "out": str(evaluated / "eval"), "rescore": True})
    found = metrics_from_files(evaluated / "eval", check_evaluation(cfg), "none", 2)
    quality, utility = (found[name].evidence.clusters for name in ("forget_quality", "model_utility"))
    assert quality["first"] == quality["second"] and set(quality["first"]) == {"forget author 1"}
    assert set(utility["retain"]) == {"retain author 1"} and utility["world_facts"][:2] == ["world_facts, 0", "world_facts, 1"]


def test_rescoring_needs_no_model_and_changes_nothing(evaluated, tmp_path, no_model):
    shutil.copytree(evaluated / "eval", tmp_path / "eval")
    before = metrics(tmp_path / "eval")
    (tmp_path / "eval" / "metrics.json").unlink()
    run(tmp_path, "evaluate", "split=forget05", *QUICK_EVALUATION, "rescore=true", "out=eval")
    assert metrics(tmp_path / "eval") == before
    other = ("benchmark.truth_ratio=arithmetic", "resamples=200")
    run(tmp_path, "evaluate", "split=forget05", *QUICK_EVALUATION, *other, "rescore=true", "out=eval")
    changed = metrics(tmp_path / "eval")
    assert changed["forget_prob"]["value"] == before["forget_prob"]["value"]
    assert changed["forget_truth_ratio"]["value"] != before["forget_truth_ratio"]["value"]
    with pytest.raises(RunError, match="rescore=true: out=nowhere holds no finished evaluation; run the evaluation first"):
        run(tmp_path, "evaluate", "rescore=true", "out=nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_scores_outlive_the_model_that_gave_them(evaluated, tmp_path):
    shutil.copytree(evaluated / "eval", tmp_path / "eval")
    (tmp_path / "given_up").mkdir()
    again = ("split=forget05", *QUICK_EVALUATION, f"model.path={tmp_path / 'given_up'}", "model=tiny", "rescore=true", "out=eval")
    run(tmp_path, "evaluate", *again)
    assert metrics(tmp_path / "eval") == metrics(evaluated / "eval")


def test_rescoring_says_in_run_json_what_it_did(evaluated, tmp_path):
    shutil.copytree(evaluated / "eval", tmp_path / "eval")
    before = read_json(tmp_path / "eval" / "run.json")
    again = ("split=forget05", *QUICK_EVALUATION, "rescore=true", "out=eval")
    run(tmp_path, "evaluate", *again, "benchmark.truth_ratio=arithmetic")
    run(tmp_path, "evaluate", *again, "resamples=200")
    known = read_json(tmp_path / "eval" / "run.json")
    first, second = known.pop("rescored")
    assert known == before and not (tmp_path / "eval" / "lock.json").exists()
    assert first["settings"]["benchmark.truth_ratio"] == "arithmetic" and "resamples" not in first["settings"]
    assert second["settings"]["resamples"] == 200 and "benchmark.truth_ratio" not in second["settings"]
    assert "out" not in first["settings"] and first["code"] and first["date"] >= before["started"] and first["command"]
    write_json(tmp_path / "eval" / "run.json", {**known, "status": "running"})
    with pytest.raises(RunError, match="rescore=true: out=eval holds no finished evaluation"):
        run(tmp_path, "evaluate", *again)


def test_run_json_knows_what_was_saved(evaluated):
    known = read_json(evaluated / "eval" / "run.json")["results"]
    assert set(known) == {"scores.parquet", "generations.jsonl", "oracle.parquet"}
    assert known["scores.parquet"]["rows"] == len(pd.read_parquet(evaluated / "eval" / "scores.parquet"))
    assert known["generations.jsonl"]["rows"] == len(read_rows(evaluated / "eval" / "generations.jsonl")) == 12


@pytest.mark.parametrize("name", ["scores.parquet", "generations.jsonl", "oracle.parquet"])
@pytest.mark.parametrize("how", ["emptied", "cut", "flipped", "gone"])
def test_damaged_results_are_an_error_instead_of_fewer_numbers(evaluated, tmp_path, name, how):
    shutil.copytree(evaluated / "eval", tmp_path / "eval")
    path = tmp_path / "eval" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.unlink()
    if how != "gone":
        path.write_bytes({"emptied": b"", "cut": content[: len(content) // 2], "flipped": bytes(content)}[how])
    before = (tmp_path / "eval" / "metrics.json").read_bytes()
    said = "is missing, and run.json names it" if how == "gone" else "is damaged"
    with pytest.raises(ValueError, match=f"eval/{name} {said}.*; run the evaluation again, with overwrite=true out=eval"):
        run(tmp_path, "evaluate", "split=forget05", *QUICK_EVALUATION, "rescore=true", "out=eval")
    assert (tmp_path / "eval" / "metrics.json").read_bytes() == before
    assert "rescored" not in read_json(tmp_path / "eval" / "run.json")


def test_an_oracle_whose_answers_were_damaged_is_an_error(evaluated, tmp_path):
    shutil.copytree(evaluated / "eval", tmp_path / "oracle")
    (tmp_path / "oracle" / "generations.jsonl").write_text("")
    with pytest.raises(ValueError, match="oracle/generations.jsonl is damaged .0 of 12 rows are left.; run the evaluation again"):
        evaluate(tmp_path, f"oracle={tmp_path}/oracle")


def test_scores_that_do_not_say_who_asked_are_refused(evaluated, tmp_path):
    shutil.copytree(evaluated / "eval", tmp_path / "eval")
    write_parquet(
        pd.read_parquet(tmp_path / "eval" / "scores.parquet").drop(columns="asked_by"), tmp_path / "eval/scores.parquet"
    )
    known = read_json(tmp_path / "eval" / "run.json")
    write_json(tmp_path / "eval" / "run.json", {**known, "results": {}})  # as an older evaluation
    with pytest.raises(ResultsError, match="scores.parquet of out=eval does not say who asked; run the evaluation again"):
        run(tmp_path, "evaluate", "split=forget05", *QUICK_EVALUATION, "rescore=true", "out=eval")


def test_data_are_read_once(evaluated, tmp_path, monkeypatch):
    read, requests = [], Tofu.requests
    monkeypatch.setattr(Tofu, "requests", lambda self, split: read.append(split) or requests(self, split))
    oracle = shutil.copytree(evaluated / "oracle", tmp_path / "oracle")
    evaluate(tmp_path, f"oracle={oracle}", "measure=[membership,gradnorm]", "probe=prefix", "show_prompts=1")
    assert read == ["forget05"]


def extra(task: str, seen: list) -> Callable:
    """Marks what it sees, and adds a row."""

    def add(rows: list[dict], resources: Resources) -> list[dict]:
        seen.append([row["index"] for row in rows])
        return [*({**row, "marks": row.get("marks", "") + task} for row in rows), {"task": task, "index": len(rows)}]

    return add


def test_extras_see_the_rows_of_the_benchmark_and_their_own():
    """In this order, each row in its place, what is added behind them and under the name of who added it."""
    rows = [{"task": "forget", "asked_by": asker, "index": index} for index, asker in enumerate(["", "leak", "", "other"])]
    before, seen = [dict(row) for row in rows], []
    parties = {"": ("a", "b"), "leak": ("c",), "other": ()}
    benchmark, *measures = [
        SimpleNamespace(name=name, extras=[extra(task, seen) for task in tasks]) for name, tasks in parties.items()
    ]
    found = add_extras(rows, SimpleNamespace(benchmark=benchmark, measures=measures), resources())
    assert rows == before and seen == [[0, 2], [0, 2, 2], [0, 1, 2, 2, 3]]
    assert [(row["asked_by"], row["index"], row.get("marks", "")) for row in found] == [
        ("", 0, "abc"), ("leak", 1, "c"), ("", 2, "abc"), ("other", 3, ""), ("", 2, "bc"), ("", 3, "c"), ("leak", 5, "")
    ]  # fmt: skip


def test_a_finished_evaluation_is_skipped(evaluated, no_model, caplog):
    with caplog.at_level("INFO"):
        evaluate(evaluated, f"oracle={evaluated}/oracle", "tokens_per_batch=100")
    assert "is finished with these settings; skipped" in caplog.text


def test_an_oracle_is_scored_once_for_all(evaluated, tmp_path, scored):
    shutil.copytree(evaluated / "oracle", tmp_path / "oracle")
    evaluate(tmp_path, f"oracle={tmp_path}/oracle")
    assert scored == [TASKS]  # its scores lie in oracle/oracle
    assert metrics(tmp_path / "eval")["forget_quality"] == metrics(evaluated / "eval")["forget_quality"]


def test_the_evaluation_of_an_oracle_will_do(oracle, tmp_path, scored, evaluated):
    evaluate(tmp_path, f"model.path={oracle}", "oracle=none", out="oracle/eval")
    assert set(metrics(oracle / "eval")) == NAMES - {"forget_quality", "ks_statistic"}
    del scored[:]
    wanted = metrics(evaluated / "eval")
    for named in (oracle, oracle / "eval"):
        out = evaluate(tmp_path, f"oracle={named}", out=f"by_{named.name}")
        assert metrics(out)["forget_quality"] == wanted["forget_quality"]
        assert read_json(out / "run.json")["oracle"] == str(oracle / "eval" / "scores.parquet")
    assert scored == [TASKS, TASKS]  # the model's own, each time


def test_scores_of_other_prompts_or_rows_are_not_compared(evaluated, tmp_path, scored):
    shutil.copytree(evaluated / "oracle", tmp_path / "oracle")
    for number, other in enumerate(("model.template.answer_tag='A: '", "model.max_length=400", "benchmark.rows=2"), 1):
        evaluate(tmp_path, f"oracle={tmp_path}/oracle", other, out=f"eval{number}")
        assert scored == [TASKS, ("forget", "holdout")]  # the last is the oracle's
        assert len(list((tmp_path / "oracle" / "oracle").iterdir())) == 1 + number
        del scored[:]
    shutil.copytree(evaluated / "eval", tmp_path / "only_scores")
    with pytest.raises(SettingsError, match="holds no model, and no scores for split=forget05 with these prompts and rows"):
        evaluate(tmp_path, f"oracle={tmp_path}/only_scores", "model.max_length=400", out="refused")
    assert not (tmp_path / "refused").exists()


def test_a_folder_that_collects_runs_is_no_oracle(evaluated, tmp_path):
    shutil.copytree(evaluated / "eval", tmp_path / "runs" / "flat_eval")
    with pytest.raises(SettingsError, match="oracle=.*runs holds no model, and no scores"):
        evaluate(tmp_path, f"oracle={tmp_path}/runs")


def test_an_evaluation_that_is_not_finished_is_not_used(evaluated, tmp_path):
    shutil.copytree(evaluated / "eval", tmp_path / "half")
    known = read_json(tmp_path / "half" / "run.json")
    (tmp_path / "half" / "run.json").write_text(json.dumps({**known, "status": "running"}))
    with pytest.raises(SettingsError, match="oracle=.*half holds no model, and no scores"):
        evaluate(tmp_path, f"oracle={tmp_path}/half")


def test_forget_quality_is_placed_among_oracles_of_other_seeds(evaluated, tmp_path, scored):
    nulls = []
    for seed in (6, 7):
        model = tiny_model(seed=seed, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
        save_model(model, tokenizer(), tmp_path / f"null{seed}", torch.float32)
        nulls.append(f"{tmp_path}/null{seed}")
    oracle = shutil.copytree(evaluated / "oracle", tmp_path / "oracle")
    evaluate(tmp_path, f"oracle={oracle}", f"null_runs=[{','.join(nulls)}]")
    found = metrics(tmp_path / "eval")
    assert set(found) == NAMES | {"forget_quality_null", "ks_null_median"}
    assert found["forget_quality_null"]["n"] == 3 and found["forget_quality_null"]["value"] in (0.25, 0.5, 0.75, 1.0)
    assert {name: found[name] for name in NAMES} == metrics(evaluated / "eval")
    assert scored[1:] == [("forget", "holdout")] * 2 and len(read_json(tmp_path / "eval" / "run.json")["nulls"]) == 2
    again = ("rescore=true", f"oracle={oracle}", f"null_runs=[{','.join(nulls)}]")
    evaluate(tmp_path, *again)
    assert metrics(tmp_path / "eval") == found


def test_oracles_of_other_seeds_that_say_nothing_are_refused(oracle, no_model, tmp_path):
    for overrides, sentence in (
        ((f"oracle={oracle}", "null_runs=[a]"), r"null_runs=\[a\]: name at least 2 retain oracles"),
        ((f"oracle={oracle}", f"null_runs=[a,{oracle}]"), "an oracle is named twice"),
        ((f"oracle={oracle}", "null_runs=[a,b]"), "null_runs=a: there is no such folder"),
        (("oracle=none", "null_runs=[a,b]"), "goes with oracle=ORACLE"),
    ):
        with pytest.raises(SettingsError, match=sentence):
            evaluate(tmp_path, *overrides)
    with pytest.raises(SettingsError, match="benchmark=knowundo has no forget quality to place"):
        run(tmp_path, "evaluate", "benchmark=knowundo", f"model.path={target()}", "null_runs=[a,b]")


def test_without_an_oracle_the_command_that_makes_one_is_told(tmp_path):
    make = "Make one with: python finetune.py model=tiny benchmark=tofu split=retain95 out=runs/retain95"
    for named, state in (("null", "forget quality compares with a retain oracle"), ("nowhere", "there is no such folder")):
        with pytest.raises(SettingsError) as refusal:
            evaluate(tmp_path, f"oracle={named}")
        assert str(refusal.value).startswith(f"oracle={named}: {state}") and make in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_an_oracle_needs_no_oracle(tmp_path, monkeypatch):
    shutil.copytree(target(), tmp_path / "oracle" / "model")
    settings = OmegaConf.to_container(compose_settings("finetune", "split=retain95"), resolve=True)
    made = {"script": "finetune", "status": "finished", "settings": settings}
    (tmp_path / "oracle" / "run.json").write_text(json.dumps(made))
    evaluate(tmp_path, f"model.path={tmp_path}/oracle")
    assert set(metrics(tmp_path / "eval")) == NAMES - {"forget_quality", "ks_statistic"}


def test_an_interrupted_evaluation_goes_on(evaluated, tmp_path, monkeypatch):
    """Whatever was scored or generated before is not computed again, in whatever batches the rest is done."""
    where = (f"oracle={evaluated}/oracle", f"cache={tmp_path}/cache")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(scoring, "generate", stop_after(scoring.generate, 1))
        patch.setattr(token_cache, "SECONDS", -1.0)
        evaluate(tmp_path, *where, "generation_batch_size=4")
    assert read_json(tmp_path / "eval" / "run.json")["status"] == "running"
    asked = []
    generate = scoring.generate
    monkeypatch.setattr(scoring, "answer_statistics", lambda *_: pytest.fail("scored again"))
    monkeypatch.setattr(scoring, "generate", lambda m, e, prompts, *rest: asked.extend(prompts) or generate(m, e, prompts, *rest))
    evaluate(tmp_path, *where, "tokens_per_batch=300")
    assert len(asked) == 3 * 4 - 4
    for name, metric in metrics(evaluated / "eval").items():
        assert metrics(tmp_path / "eval")[name]["value"] == pytest.approx(metric["value"], rel=1e-4), name


def stop_after(original, batches: int):
    def generate(*arguments):
        for number, batch in enumerate(original(*arguments)):
            if number == batches:
                raise KeyboardInterrupt
            yield batch

    return generate


def test_prompts_can_be_looked_at(tmp_path, capsys):
    evaluate(tmp_path, "oracle=none", "show_prompts=2")
    shown = capsys.readouterr().out
    assert shown.count("--- forget 0, perturbed") == 5 and "--- forget 1, paraphrased 0\n" in shown
    assert "--- forget 2" not in shown and "Answer:⟦ " in shown


def test_the_tokenizer_is_described_once_per_evaluation(monkeypatch):
    from utils.tokens import prompts

    calls, original = [], prompts.tokenizer_state
    monkeypatch.setattr(prompts, "tokenizer_state", lambda which: calls.append(which) or original(which))
    questions = check_evaluation(
        cfg := compose_settings("evaluate", f"model.path={target()}", f"oracle={target()}", "trust_oracle=true")
    )
    encoder = make_encoder(cfg.model, questions.benchmark, "evaluate", cfg.compat)
    utils.runs.oracles.check_oracle(cfg, questions, encoder)
    utils.runs.oracles.check_oracle(cfg, questions, encoder)
    assert len(calls) == 1
