r"""Requests to forget that arrive one after another: each starts from what the last one left, and all are asked again after each.

    python scripts/sequence.py monday.jsonl tuesday.csv --target runs/target --out runs/requests \
        --both benchmark.retain=kept.csv --unlearn method=npo adapter=lora --evaluate benchmark.rows=100

Files are what benchmark.forget= takes. Dials of --both go to unlearn.py and evaluate.py. Each training and evaluation is a
process of its own, so memory does not grow with the number of requests; with adapter=lora one adapter is learned on, and the
model below it stays as it is.

OUT/sequence.json, sequence.md      after each request, what is still given away of each file, and what is kept
OUT/01/, OUT/01/eval                the runs, to be gone on with when interrupted; finished ones are skipped
OUT/02/asked_01                     the first file, asked again after the second request
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import _path

from utils.files import write_json, write_text
from utils.report import markdown
from utils.runs.cli import as_override, errors_in_one_sentence, refuse_overrides
from utils.runs.series import Call, Evaluation, Metrics, call_script, finished_run, named_models, open_series

SET_HERE = (
    "benchmark",
    "benchmark.forget",
    "model.path",
    "split",
    "out",
    "overwrite",
    "resume",
    "rescore",
    "from_logs",
    "before",
)
GIVEN_AWAY, KEPT = "forget_rougeL_recall", "retain_rougeL_recall"
RESULTS = "*/"  # every folder within that of a sequence


@dataclass(frozen=True)
class Arrivals:
    """files: what is forgotten, in order. target: the run or model folder that the first request is made to.

    out: a folder for each request. unlearn, evaluate: overrides for the two scripts. Raises ValueError for one that is set here.
    """

    files: tuple[str, ...]
    target: str
    out: Path
    unlearn: tuple[str, ...] = ()
    evaluate: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        refuse_overrides((*self.unlearn, *self.evaluate), SET_HERE)
        twice = [file for file in self.files if self.files.count(file) > 1]
        if twice:
            raise ValueError(f"{twice[0]}: is named twice; name each file once")

    def folder(self, number: int) -> Path:
        return self.out / f"{number:02d}"

    def start(self, number: int) -> str:
        """The model that a request is made to."""
        return self.target if number == 1 else str(self.folder(number - 1))

    def training(self, number: int) -> list[str]:
        """Overrides of unlearn.py. From the second request on an adapter is gone on with: adapters do not pile up."""
        words = self.unlearn
        if number > 1:
            words = tuple("adapter=continue" if word in ("adapter=lora", "adapter=qlora") else word for word in words)
        return [*self._about(self.start(number), self.files[number - 1]), *words]

    def asking(self, number: int, about: int) -> list[str]:
        """Overrides of evaluate.py: after request `number`, about the file of request `about`."""
        before = [] if number == about else ["before=none"]
        return [*self._about(str(self.folder(number)), self.files[about - 1]), *self.evaluate, *before]

    def settings(self) -> dict[str, Any]:
        """What decides the numbers."""
        files, model = list(self.files), named_models(target=self.target)
        return {"files": files, **model, "unlearn": list(self.unlearn), "evaluate": list(self.evaluate)}

    def _about(self, model: str, file: str) -> list[str]:
        return ["benchmark=own", as_override("benchmark.forget", file), as_override("model.path", model)]


def run_sequence(sequence: Arrivals, call: Call = call_script) -> list[dict[int, Metrics]]:
    """For every request what was measured after it: number of a file -> metrics. Raises ValueError."""
    open_series(sequence.out, "sequence.json", sequence.settings(), RESULTS)
    rows: list[dict[int, Metrics]] = []
    count = len(sequence.files)
    for number in range(1, count + 1):
        print(f"request {number} of {count}: {sequence.files[number - 1]}", flush=True)
        folder = sequence.folder(number)
        if finished_run(folder) is None:
            call("unlearn", [*sequence.training(number), as_override("out", str(folder))])
        rows.append({})
        for about in range(1, number + 1):
            at = folder / ("eval" if about == number else f"asked_{about:02d}")
            rows[-1][about] = Evaluation.made(at, sequence.asking(number, about), call).metrics
        status = "finished" if number == count else "running"
        write_json(sequence.out / "sequence.json", {"status": status, "settings": sequence.settings(), "rows": rows})
        write_text(sequence.out / "sequence.md", table(sequence, rows))
    return rows


def table(sequence: Arrivals, rows: Sequence[dict[int, Metrics]]) -> str:
    """After each request: ROUGE-L recall of what was forgotten, file by file, and of what is kept."""
    names = [Path(file).name for file in sequence.files]
    cells = [["before", *(_number(row[number], f"{GIVEN_AWAY}_before") for number, row in enumerate(rows, start=1)), ""]]
    for number, row in enumerate(rows, start=1):
        forgotten = [_number(row[about], GIVEN_AWAY) if about in row else "" for about in range(1, len(rows) + 1)]
        cells.append([f"after {names[number - 1]}", *forgotten, _number(row[number], KEPT)])
    words = (
        "ROUGE-L recall of the model's own answers about each file, just before and after it was forgotten and after each later "
    )
    return markdown.table(["", *names[: len(rows)], "kept"], cells) + f"\n{words}request; kept: about benchmark.retain.\n"


def _number(metrics: Metrics, name: str) -> str:
    return markdown.number(metrics.get(name), ".3f")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", metavar="FILE")
    parser.add_argument("--target", required=True, metavar="RUN", help="run or model folder, or a name on the Hub")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    for name in ("both", "unlearn", "evaluate"):
        parser.add_argument(f"--{name}", nargs="*", default=[], metavar="key=value")
    options = parser.parse_args(arguments)
    with errors_in_one_sentence():
        of_unlearn, of_evaluate = (*options.both, *options.unlearn), (*options.both, *options.evaluate)
        sequence = Arrivals(tuple(options.files), options.target, options.out, of_unlearn, of_evaluate)
        run_sequence(sequence)
        print(sequence.out / "sequence.md")


if __name__ == "__main__":
    main()
