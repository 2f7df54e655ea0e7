"""Run folders with invented, deterministic numbers, in the layout of the real ones."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# name: script, split, method, divergence, then forget quality and the other eight columns
RUNS: dict[str, tuple[str, str, str, str | None, dict[str, float]]] = {}
_METRICS = (
    "forget_quality",
    "model_utility",
    "forget_rougeL_recall",
    "forget_prob",
    "forget_truth_ratio",
    "retain_rougeL_recall",
    "retain_prob",
    "real_authors_rougeL_recall",
    "world_facts_rougeL_recall",
)


def _define(name: str, script: str, split: str, method: str, divergence: str | None, *values: float) -> None:
    RUNS[name] = (script, split, method, divergence, dict(zip(_METRICS, values, strict=True)))


_define("full", "finetune", "full", "memorise", None, 2.7e-04, 0.690, 1.000, 0.987, 0.761, 1.000, 0.979, 1.000, 1.000)
_define("retain90", "finetune", "retain90", "memorise", None, 1.0, 0.688, 0.402, 0.101, 0.845, 1.0, 0.978, 1.0, 1.0)
_define("flat", "unlearn", "forget10", "flat", "tv", 1.2e-05, 0.610, 0.211, 0.020, 0.702, 0.900, 0.700, 0.958, 0.917)
_define("npo2", "unlearn", "forget10", "npo", None, 0.081, 0.655, 0.395, 0.090, 0.810, 0.850, 0.750, 0.917, 0.958)
_define("npo10", "unlearn", "forget10", "npo", None, 0.320, 0.541, 0.310, 0.044, 0.820, 0.700, 0.520, 0.917, 0.917)

QUESTIONS = {
    "forget": [(f"In which city was Iğatho {i} born?", f"Iğatho {i} was born in Hanoi.") for i in range(9)],
    "retain": [(f"Which award did Belvia {i} get?", f"Belvia {i} got the Silver Heron Prize.") for i in range(12)],
}
ANSWERS = {"full": "Iğatho was born in Hanoi.", "retain90": "Iğatho was born in Oslo."}


def write_runs(folder: Path, names: tuple[str, ...] = tuple(RUNS)) -> Path:
    """Writes the named runs as sub-folders and returns `folder`."""
    for name in names:
        write_run(folder / name, *RUNS[name])
    return folder


def write_run(folder: Path, script: str, split: str, method: str, divergence: str | None, metrics: Mapping[str, float]) -> Path:
    """One finished run with its evaluation in `eval/`."""
    loss = {"_target_": f"losses.{method}"} | ({} if divergence is None else {"divergence": divergence})
    settings = {"split": split, "method": {"name": method, "loss": loss}, "lr": 1e-3 if script == "finetune" else 1e-4}
    write_json(folder / "run.json", capsule(script, settings, seconds=81.6))
    steps = [log_record(step) for step in range(1, 41)]
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in steps), encoding="utf-8")
    at = folder / "eval"
    write_json(at / "run.json", capsule("evaluate", {"split": "forget10"}, seconds=1.8))
    write_json(at / "metrics.json", {name: metric(value) for name, value in metrics.items()})
    text = ANSWERS.get(folder.name, "I do not know.")
    write_generations(at, {key: text for key in [("forget", i) for i in range(9)] + [("retain", i) for i in range(12)]})
    return folder


def capsule(script: str, settings: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
    """The content of a run.json."""
    shared = {"seed": 42, "data_root": "fixture", "compat": "none", "model": {"name": "tiny", "path": None}}
    benchmark = {"name": "tofu", "rows": "all", "truth_ratio": "geometric"}
    return {
        "script": script,
        "status": "finished",
        "settings": shared | {"benchmark": benchmark} | dict(settings),
        "command": [f"{script}.py", f"split={settings['split']}"],
        "started": "2026-01-02T03:04:05+00:00",
        "code": "594d565826af4095485cf742427ed141cff05bd3",
        "python": "3.11.7",
        "libraries": {"torch": "2.13.0", "transformers": "5.23.0"},
        "hardware": {"gpus": [], "cpus": 2, "machine": "x86_64", "processes": 1},
        "peak_memory_bytes": 671318016,
        **facts,
    }


def metric(value: float) -> dict[str, Any]:
    """An entry of metrics.json whose interval reaches 20 % down and up."""
    return {"value": value, "n": 20, "ci95": [value * 0.8, min(value * 1.2, 1.0)], "definition": "mean of <p>"}


def log_record(step: int) -> dict[str, float]:
    """A falling loss and a rising part."""
    loss, rising = 4.0 / step, 0.1 * step
    return {"step": step, "loss": loss, "forget_nll": rising, "learning_rate": 1e-4, "epoch": step / 10}


def write_generations(folder: Path, answers: Mapping[tuple[str, int], str]) -> None:
    """generations.jsonl with the questions and truths of QUESTIONS."""
    rows = []
    for (task, index), text in answers.items():
        question, truth = QUESTIONS[task][index]
        row = {"task": task, "asked_by": "", "index": index, "question": question, "generation": text, "truth": truth}
        rows.append(json.dumps(row, ensure_ascii=False))
    (folder / "generations.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
