r"""Searches how strongly a reinforced model is to be subtracted: the first coefficient that forgets as much as the retain oracle.

    python finetune.py model=tiny model.path=runs/target split=forget10 out=runs/reinforced
    python scripts/search_coefficient.py --base runs/target --reinforced runs/reinforced --metric forget_rougeL_recall \
        --oracle runs/retain90/eval --out runs/task_vector -- model=tiny split=forget10 oracle=runs/retain90

--combine task_vector writes theta_base - C (theta_reinforced - theta_base); --combine whp writes nothing and evaluates
logits_base - C relu(logits_reinforced - logits_base). The reinforced model is the base finetuned on what is to be forgotten.

Coefficients are tried in the order of --grid. Chosen is the first whose --metric is at most that of --oracle (an evaluation of
the retain oracle), else the last: the rule of MUSE's released code (arXiv 2407.06460), there with 1, 2, 4, 8, 16 and the mean
ROUGE-L of short answers about the forget set. What follows -- goes to every evaluate.py.

OUT/search.json, search.md      what was tried and chosen; every metric of every coefficient
OUT/alpha_C/eval                an evaluation each; one that is finished is not run again
OUT/alpha_C/model               weights of the chosen coefficient; those of the others are deleted (not with --keep)
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import _path

from utils.files import write_json, write_text
from utils.report import markdown
from utils.runs.cli import as_override, errors_in_one_sentence, refuse_overrides
from utils.runs.series import Call, Evaluation, call_script, named_models, open_series

GRID = "1,2,4,8,16"  # MUSE, released code
SET_HERE = ("model.path", "reinforced.path", "reinforced.alpha", "out", "rescore", "from_logs", "overwrite", "resume")


@dataclass(frozen=True)
class Search:
    """What is searched. base, reinforced: run folders, model folders or Hub names. overrides: for evaluate.py.

    Raises ValueError for an empty or unordered grid, or an override of what the search itself sets.
    """

    base: str
    reinforced: str
    grid: tuple[float, ...]
    metric: str
    oracle: Path
    out: Path
    combine: str = "task_vector"
    overrides: tuple[str, ...] = ()
    keep: bool = False

    def __post_init__(self) -> None:
        if not self.grid or any(not (isfinite(c) and c > 0) for c in self.grid) or list(self.grid) != sorted(set(self.grid)):
            raise ValueError(f"--grid {','.join(map(name, self.grid))}: write rising numbers above 0, such as {GRID}")
        refuse_overrides(self.overrides, SET_HERE)

    def settings(self) -> dict[str, Any]:
        """What decides the numbers of a coefficient."""
        models = named_models(base=self.base, reinforced=self.reinforced)
        return {**models, "combine": self.combine, "overrides": list(self.overrides)}

    def folder(self, coefficient: float) -> Path:
        return self.out / f"alpha_{name(coefficient)}"

    def model(self, coefficient: float) -> dict[str, str | float]:
        """The dials of evaluate.py that stand for the model of a coefficient."""
        if self.combine == "whp":
            return {"model.path": self.base, "reinforced.path": self.reinforced, "reinforced.alpha": coefficient}
        return {"model.path": str(self.folder(coefficient) / "model")}


@dataclass
class Progress:
    """What was tried, kept in search.json and search.md after every coefficient."""

    search: Search
    oracle: Evaluation
    threshold: float
    tried: dict[float, Evaluation] = field(default_factory=dict)
    finished: bool = False

    @property
    def chosen(self) -> float:
        """The last that was tried: the search stops at the first that will do."""
        return next(reversed(self.tried))

    @property
    def reached(self) -> bool:
        return self.tried[self.chosen].value(self.search.metric) <= self.threshold

    def write(self) -> None:
        metric = self.search.metric
        content: dict[str, Any] = {
            "status": "finished" if self.finished else "running",
            "settings": self.search.settings(),
            "rule": "the first of grid whose metric is at most that of oracle, else the last",
            "metric": metric,
            "oracle": {"evaluation": str(self.oracle.folder), metric: self.oracle.metrics[metric]},
            "grid": list(self.search.grid),
            "tried": [
                {"coefficient": coefficient, "evaluation": str(evaluation.folder), metric: evaluation.metrics[metric]}
                for coefficient, evaluation in self.tried.items()
            ],
        }
        if self.finished:
            content |= {"chosen": self.chosen, "reached": self.reached, "model": self.search.model(self.chosen)}
        write_json(self.search.out / "search.json", content)
        write_text(self.search.out / "search.md", self.table())

    def table(self) -> str:
        """Markdown: a row per metric, a column for the oracle and for every coefficient."""
        heads = ["metric", "oracle", *map(name, self.tried)]
        if self.finished:
            heads[-1] = markdown.bold(heads[-1])
        columns = [self.oracle.metrics, *(evaluation.metrics for evaluation in self.tried.values())]
        rows = []
        for metric in dict.fromkeys(key for column in reversed(columns) for key in column):
            label = markdown.bold(metric) if metric == self.search.metric else metric
            rows.append([label, *(markdown.number(column.get(metric), ".4g") for column in columns)])
        return markdown.table(heads, rows) + "\n"


def search_coefficient(search: Search, call: Call = call_script) -> Progress:
    """Runs the search, or goes on with one that was interrupted. Raises ValueError."""
    oracle = Evaluation.of_oracle(search.oracle)
    progress = Progress(search, oracle, oracle.value(search.metric))
    open_folder(search)
    for coefficient in search.grid:
        evaluation = measure(search, coefficient, call)
        value = evaluation.compared(oracle, search.metric)
        progress.tried[coefficient] = evaluation
        progress.write()
        print(f"C = {name(coefficient)}: {search.metric} {value:.4g}, oracle {progress.threshold:.4g}", flush=True)
        if progress.reached:
            break
    bring_weights(search, progress.chosen)  # after an earlier search with another rule they may be deleted
    progress.finished = True
    progress.write()
    return progress


def measure(search: Search, coefficient: float, call: Call) -> Evaluation:
    """The evaluation of a coefficient, run if it is not there. Raises ValueError if it fails."""
    folder = search.folder(coefficient) / "eval"
    if Evaluation.read(folder) is None:
        bring_weights(search, coefficient)
    model = [override(key, value) for key, value in search.model(coefficient).items()]
    return Evaluation.made(folder, [*search.overrides, *model], call)


def bring_weights(search: Search, coefficient: float) -> None:
    """Writes the model of a coefficient unless it is there; deletes those of other coefficients unless they are to be kept."""
    if search.combine == "whp":
        return
    out = search.folder(coefficient) / "model"
    if not search.keep:
        drop_weights(search.out, but=out)
    if not out.exists():
        from utils.weights.arithmetic import negate  # slow imports: what can be refused without them was refused above

        negate(Path(search.base), Path(search.reinforced), out, coefficient)


def drop_weights(out: Path, but: Path | None = None) -> None:
    """Deletes the models in the folder of a search, except for one."""
    for model in set(out.glob("alpha_*/model")) - {but}:
        shutil.rmtree(model)


def open_folder(search: Search) -> None:
    """Raises ValueError if --out holds something else, or a search whose numbers would not belong to this one."""
    for model in map(Path, (search.base, search.reinforced)):
        if search.out.resolve() in (model.resolve(), *model.resolve().parents):
            raise ValueError(f"--out {search.out} holds {model}, which is read; choose another")
    if open_series(search.out, "search.json", search.settings(), "alpha_*/eval"):
        drop_weights(search.out)  # of a search that got no number


def parse_grid(text: str) -> tuple[float, ...]:
    """`1,2,0.5` as numbers. Raises ValueError."""
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise ValueError(f"--grid {text}: write numbers with commas between them, such as {GRID}") from None


def name(coefficient: float) -> str:
    """1.0 -> 1, 0.5 -> 0.5."""
    return repr(float(coefficient)).removesuffix(".0")


def override(key: str, value: str | float) -> str:
    """A dial for evaluate.py; a coefficient as it is named everywhere here, 4 and not 4.0."""
    return f"{key}={name(value)}" if isinstance(value, float) else as_override(key, value)


def main(arguments: list[str] | None = None, call: Call = call_script) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, metavar="DIR", help="target model to unlearn from")
    parser.add_argument("--reinforced", required=True, metavar="DIR", help="the base finetuned on what is to be forgotten")
    parser.add_argument("--combine", choices=("task_vector", "whp"), default="task_vector", help="on weights (default) or logits")
    parser.add_argument("--grid", default=GRID, metavar="C,C,...", help=f"coefficients in rising order (default: {GRID})")
    parser.add_argument("--metric", required=True, metavar="NAME", help="a name in metrics.json; lower is more forgotten")
    parser.add_argument("--oracle", type=Path, required=True, metavar="DIR", help="evaluation of the retain oracle")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for evaluations and the chosen model")
    parser.add_argument("--keep", action="store_true", help="keep the weights of every coefficient")
    parser.add_argument("overrides", nargs="*", metavar="-- KEY=VALUE", help="settings of evaluate.py")
    options = vars(parser.parse_args(arguments))
    with errors_in_one_sentence():
        search = Search(**{**options, "grid": parse_grid(options["grid"]), "overrides": tuple(options["overrides"])})
        progress = search_coefficient(search, call)
    if not progress.reached:
        print(f"no coefficient of --grid brought {search.metric} to the oracle; this is the last, and a longer grid goes on")
    chosen = search.model(progress.chosen)
    print(" ".join(f"{key}={value if isinstance(value, str) else name(value)}" for key, value in chosen.items()))


if __name__ == "__main__":
    main()
