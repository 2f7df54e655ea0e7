"""The command lines of the README, one after the other, as a user types them; and what a user gets who mistypes them."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

import utils.weights.reinforced
from tests.runs import SMALL, Finished, launch, losses, metrics, script, succeed, target
from utils import ROOT
from utils.files import read_json

GOLDEN = Path(os.environ.get("LETHE_SHARED", "")) / "golden"
needs_golden = pytest.mark.skipif("LETHE_SHARED" not in os.environ, reason="LETHE_SHARED is not set: no golden logs")

FEW_STEPS = (*SMALL, "epochs=1", "batch_size=64", "checkpoint=none")
FEW_ROWS = ("benchmark.rows=4", "benchmark.max_new_tokens=8", "resamples=100")
UNLEARN = ("model=tiny", "model.path=runs/target", "benchmark=tofu", "split=forget10", *FEW_STEPS)
EVALUATE = ("model=tiny", "model.path=runs/flat_kl", "benchmark=tofu", "split=forget10", *FEW_ROWS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the four commands of the README were run; the last in a Python of its own."""
    where = tmp_path_factory.mktemp("readme")
    trained = succeed(where, "finetune", "model=tiny", "benchmark=tofu", "split=full", *FEW_STEPS, "out=runs/target")
    assert next_command(trained)[1:4] == ["unlearn.py", "method=flat", "model.path=runs/target"]
    succeed(where, "finetune", "model=tiny", "benchmark=tofu", "split=retain90", *FEW_STEPS, "out=runs/retain90")
    unlearned = succeed(where, "unlearn", "method=flat", "method.loss.divergence=kl", *UNLEARN, "out=runs/flat_kl")
    _, *command = next_command(unlearned)
    assert command == ["evaluate.py", "model.path=runs/flat_kl", "oracle=runs/retain90", "out=runs/flat_kl/eval"]
    scored = launch(where, *command, *FEW_ROWS, fresh=True)
    assert scored.code == 0, scored.err
    assert next_command(scored) == ["python", "scripts/report.py", "runs"]
    (where / "evaluate.txt").write_text(scored.out)
    (where / "evaluate.err").write_text(scored.err)
    return where


def next_command(finished: Finished) -> list[str]:
    """What a run says comes next, in its last line."""
    (line,) = [line for line in finished.out.splitlines() if line.startswith("next: ")]
    return shlex.split(line.removeprefix("next: "))


def test_four_commands_lead_to_fifteen_numbers(folder):
    found = metrics(folder / "runs" / "flat_kl" / "eval")
    parts = ("prob", "rougeL_recall", "truth_ratio")
    tasks = ("forget", "retain", "real_authors", "world_facts")
    names = {f"{task}_{part}" for task in tasks for part in parts} | {"model_utility", "forget_quality", "ks_statistic"}
    assert set(found) == names and len(names) == 15
    printed = (folder / "evaluate.txt").read_text()
    for name, metric in found.items():
        assert f"{metric['value']:>10.4g}   [" in next(line for line in printed.splitlines() if line.startswith(f"{name} "))
    assert "runs/retain90 holds no scores for split=forget10 yet: scoring its model once" in printed


OURS = r"as in \S+: |cache \S+: |numbers: |next: |\S+ holds no scores for |\S+ +[-\d.e+na]+ +\[.*\] +n=\d+$"
BAR = r"(?:training|scoring|generating|reference): +\d+%\|.*/s(?:, loss=[\d.]+)?\]$"


def test_a_run_prints_its_own_lines_and_no_library(folder):
    lines = (folder / "evaluate.txt").read_text().splitlines()
    assert len(lines) > 15 and [line for line in lines if not re.match(OURS, line)] == []
    bars = re.split(r"[\r\n]+", (folder / "evaluate.err").read_text().strip())
    assert [line for line in bars if not re.match(BAR, line)] == []


FILES_ALONE = """
import runpy, sys
heavy, (root, *commands) = sys.argv[1].split(","), sys.argv[2:]

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in heavy:
            raise ImportError(f"{command}: loads {name}")

sys.meta_path.insert(0, Missing())
for command in commands:
    script, *sys.argv[1:] = command.split(" ")
    sys.argv[0] = script
    sys.path[0] = f"{root}/{script.rpartition('/')[0]}"
    if script == "-c":
        exec(" ".join(sys.argv[1:]))
        continue
    if "--help" in sys.argv:
        heavy += ["scipy", "pandas"]
    try:
        runpy.run_path(f"{root}/{script}", run_name="__main__")
    except SystemExit as end:
        assert not end.code, end.code
    heavy = heavy[:3]
"""


def test_help_files_and_reports_load_no_torch(folder):
    commands = [f"{name}.py --help" for name in ("finetune", "unlearn", "evaluate")]
    commands += ["scripts/report.py runs", "evaluate.py rescore=true benchmark=tofu resamples=100 out=runs/flat_kl/eval"]
    names = ("tofu", "own", "muse", "knowundo", "completion", "nlu", "nlg")
    commands += [f"-c import data.benchmarks.{name}" for name in names]  # what rescoring them needs besides
    if "LETHE_SHARED" in os.environ:
        case = json.loads((GOLDEN / "tofu_aggregate.json").read_text())["cases"][0]
        logs = f"from_logs={GOLDEN / case['unlearned_log']} oracle={GOLDEN / case['retain_log']}"
        commands += [f"evaluate.py benchmark=tofu {logs} resamples=100 out=logs"]
    done = launch(folder, "-c", FILES_ALONE, "torch,transformers,peft", ROOT, *commands, fresh=True)
    assert done.code == 0, done.err
    assert done.out.count("Settings are written key=value") == 3 and "forget_quality" in done.out


@pytest.mark.slow
def test_of_two_processes_one_speaks(folder, tmp_path):
    """With the real torchrun; what the launcher says of threads is its own."""
    start = (f"model.path={folder / 'runs' / 'target'}", "split=forget01")
    trained = launch(tmp_path, "unlearn.py", *start, "method=npo_rt", "steps=2", "out=npo", processes=2, fresh=True)
    rows = ("oracle=none", *FEW_ROWS)
    scored = launch(tmp_path, "evaluate.py", "model.path=npo", *rows, "out=npo/eval", processes=2, fresh=True)
    for finished in (trained, scored):
        assert finished.code == 0, finished.err
        lines = finished.out.splitlines()
        assert len(lines) == len(set(lines)) > 4
        assert [line for line in lines if not re.match(rf"{OURS}|model: |or, |\d+ items, ", line)] == []
        assert [line for line in re.split(r"[\r\n]+", finished.err.strip()) if not re.match(BAR, line)] == []


def test_every_run_folder_is_complete(folder):
    runs = folder / "runs"
    # 200 or 180 pairs, and 88 of general knowledge for weights that were drawn at random
    for name, script_name, items in (("target", "finetune", 288), ("retain90", "finetune", 268), ("flat_kl", "unlearn", 20)):
        known = read_json(runs / name / "run.json")
        assert (known["script"], known["status"], known["items"]) == (script_name, "finished", items)
        assert known["steps"] == len(losses(runs / name)) == max(1, items // 64)
        assert sorted(path.name for path in (runs / name).iterdir() if path.name not in ("eval", "oracle")) == [
            "config.yaml", "log.jsonl", "model", "run.json",
        ]  # fmt: skip
    evaluation = read_json(runs / "flat_kl" / "eval" / "run.json")
    assert evaluation["status"] == "finished" and evaluation["sources"] == {
        "model.path": read_json(runs / "flat_kl" / "run.json")["weights"],
        "oracle": read_json(runs / "retain90" / "run.json")["weights"],
        "reinforced.path": None,
    }
    card, quality = (runs / "flat_kl" / "model" / "README.md").read_text(), metrics(runs / "flat_kl" / "eval")["forget_quality"]
    assert "# tiny, unlearned with flat" in card and f"| `forget_quality` | {quality['value']:.4g} | [" in card
    assert "trained on full" in (runs / "target" / "model" / "README.md").read_text()
    settings = read_json(runs / "flat_kl" / "run.json")["settings"]
    assert settings["method"]["loss"]["divergence"] == "kl" and settings["model"]["path"] == "runs/target"


def test_prompts_are_shown_with_their_supervised_tokens(folder, tmp_path):
    shown = succeed(tmp_path, "unlearn", "method=flat", "model=tiny", f"model.path={target()}", *FEW_STEPS, "show_prompts=3").out
    for item in range(3):
        for stream in ("forget", "template"):
            assert shown.count(f"--- item {item}, stream {stream}\n<|bos|>Question: ") == 1
    assert "--- item 3" not in shown and shown.count("\nAnswer:⟦ ") == 6


def test_metrics_can_be_computed_again_without_a_model(folder, monkeypatch):
    def load(*_):
        pytest.fail("a model was loaded")

    monkeypatch.setattr(utils.weights.reinforced, "load_model", load)
    before = (folder / "runs" / "flat_kl" / "eval" / "metrics.json").read_text()
    out = "out=runs/flat_kl/eval"
    again = succeed(folder, "evaluate", "benchmark=tofu", "resamples=100", "rescore=true", out)
    assert (folder / "runs" / "flat_kl" / "eval" / "metrics.json").read_text() == before
    assert "forget_quality" in again.out
    skipped = succeed(folder, "evaluate", *EVALUATE, "oracle=runs/retain90", out)
    assert "runs/flat_kl/eval is finished with these settings; skipped" in skipped.out


@pytest.mark.slow
def test_a_sweep_gives_every_combination_its_own_folder(tmp_path):
    sweep = ("method=flat,npo", "seed=0,1", "model=tiny", f"model.path={target()}", "split=forget01", *FEW_STEPS)
    done = succeed(tmp_path, "unlearn", "-m", *sweep)
    runs = sorted((tmp_path / "runs" / "unlearn").iterdir())
    assert len(runs) == 4 and all((run / "model" / "config.json").exists() for run in runs)
    made = {(known["settings"]["method"]["name"], known["settings"]["seed"]) for known in map(capsule, runs)}
    assert made == {("flat", 0), ("flat", 1), ("npo", 0), ("npo", 1)}
    names = [f"tofu_forget01_tiny_{method}_lr0.0003_seed{seed}" for method in ("flat", "npo") for seed in (0, 1)]
    assert [run.name.split("-")[0] for run in runs] == names
    jobs = [line for line in done.out.splitlines() if re.match(r"\d of \d: ", line)]
    assert jobs == [
        f"{n} of 4: method={m} seed={s}" for n, m, s in ((1, "flat", 0), (2, "flat", 1), (3, "npo", 0), (4, "npo", 1))
    ]
    assert done.out.count("2 items, 1 optimizer steps") == 4
    assert succeed(tmp_path, "unlearn", "-m", *sweep).out.count("is finished with these settings; skipped") == 4


def capsule(run: Path) -> dict:
    return read_json(run / "run.json")


@needs_golden
@pytest.mark.parametrize(
    "overrides, key",
    [
        ((), "expected"),
        (("benchmark.truth_ratio=arithmetic",), "expected_utils_variant"),
        (("compat=open_unlearning",), "expected_open_unlearning"),
    ],
)
def test_logs_of_the_original_code_give_its_numbers(tmp_path, overrides, key):
    cases = json.loads((GOLDEN / "tofu_aggregate.json").read_text())["cases"]
    (case,) = [case for case in cases if case["id"].endswith("__full__vs__retain90")]
    logs = (f"from_logs={GOLDEN / case['unlearned_log']}", f"oracle={GOLDEN / case['retain_log']}")
    command = ("benchmark=tofu", *logs, *overrides, "resamples=100", "out=logs")
    succeed(tmp_path, "evaluate", *command)
    found = metrics(tmp_path / "logs")
    assert len(found) == 15
    run = json.loads((tmp_path / "logs" / "run.json").read_text())
    assert run["role"] == "log" and run["settings"]["model"]["name"] == "log"
    compared = [name for name in case[key] if name in found]
    assert len(compared) >= 5
    for name in compared:
        assert found[name]["value"] == pytest.approx(case[key][name], rel=1e-6, abs=1e-30), name
    if not overrides:  # the same again leaves what is finished as it is
        before = (tmp_path / "logs" / "run.json").read_text()
        assert "skipped" in succeed(tmp_path, "evaluate", *command).out
        assert (tmp_path / "logs" / "run.json").read_text() == before


@needs_golden
def test_logs_of_open_unlearning_give_its_numbers(tmp_path):
    at = GOLDEN / "open_unlearning_logs"
    logs = (f"from_logs={at / 'npo' / 'TOFU_EVAL.json'}", f"oracle={at / 'retain90' / 'TOFU_EVAL.json'}")
    succeed(tmp_path, "evaluate", "benchmark=tofu", *logs, "resamples=100", "out=logs")
    found, summary = metrics(tmp_path / "logs"), json.loads((at / "npo" / "TOFU_SUMMARY.json").read_text())
    assert found["forget_quality"]["value"] == pytest.approx(summary["forget_quality"], rel=1e-6)
    assert found["mia_min_k_privleak"]["value"] == pytest.approx(summary["privleak"], rel=1e-6)
    assert capsule(tmp_path / "logs")["role"] == "log"


# The settings themselves are tested in tests/utils/runs/test_settings.py and test_cli.py; here, what a user sees.
REFUSED = [
    ("unlearn", ["lerning_rate=1"], "lerning_rate=1: there is no key lerning_rate; there are"),
    ("unlearn", ["method=flta"], "method=flta: there is no such method; did you mean flat?"),
    ("unlearn", ["reference=cachd"], "reference=cachd: write one of auto, adapter, cached, resident; did you mean cached?"),
    ("unlearn", ["model.path=null"], "model.path=null: unlearning starts from a trained model; make one with: python"),
    ("finetune", ["split=retain9"], "split=retain9: write one of full, forget01"),
    ("evaluate", [], "oracle=null: forget quality compares with a retain oracle. Make one with: python finetune.py"),
    ("evaluate", ["oracle=runs/nowhere"], "oracle=runs/nowhere: there is no such folder. Make one with:"),
    ("evaluate", ["from_logs=nowhere.json"], "from_logs=nowhere.json: there is no such file"),
]


@pytest.mark.parametrize("name, arguments, message", REFUSED)
def test_a_mistake_is_one_sentence_and_leaves_nothing_behind(tmp_path, name, arguments, message):
    start = () if name == "finetune" else ("model=tiny", f"model.path={target()}")
    check_refusal(script(tmp_path, name, *start, *arguments, "out=runs/x"), tmp_path, message)


def check_refusal(refused: Finished, folder: Path, message: str) -> None:
    assert refused.code == 1 and refused.out == ""
    lines = [line for line in refused.err.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith(message), refused.err
    assert not list(folder.iterdir())


@pytest.mark.slow
def test_a_mistake_in_a_new_python(tmp_path):
    refused = launch(tmp_path, "finetune.py", "model=tiny", "split=full", "per_device_batch_size=3", "out=runs/x", fresh=True)
    check_refusal(refused, tmp_path, "per_device_batch_size=3: does not divide the 16 items")


def test_scores_are_a_table_that_other_programs_read(folder):
    table = pd.read_parquet(folder / "runs" / "flat_kl" / "eval" / "scores.parquet")
    assert list(table.columns) == ["task", "asked_by", "index", "role", "number", "tokens", "eos", "wanted", "logp", "hit"]
    assert len(table) == 4 * (7 + 7 + 5 + 5 + 1) and (table["tokens"] == table["logp"].map(len)).all()
    lines = (folder / "runs" / "flat_kl" / "eval" / "generations.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 16 and set(rows[0]) == {"task", "asked_by", "index", "question", "generation", "truth"}
