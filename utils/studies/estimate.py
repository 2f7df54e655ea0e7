"""What a study will still cost: measured times where cells of its kind have finished, else operations over a device's speed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from utils.checks import choose
from utils.runs.cli import CONFIG
from utils.studies.cells import Cell, Graph, composed_settings
from utils.studies.conduct import duration
from utils.studies.states import State

TRAINING, SCORING = 6, 2  # operations per parameter and token: forward and backward, forward alone
GENERATED_TOGETHER = 32
LETTERS = 4  # of a token, in English
START = 15.0  # seconds for Python, libraries and weights


@dataclass(frozen=True)
class Cost:
    """seconds: None where neither a time nor sizes are known. measured: whether cells of its kind have finished."""

    seconds: float | None
    measured: bool = False
    bytes: float = 0.0

    def __str__(self) -> str:
        if self.seconds is None:
            return "time unknown"
        return f"{'' if self.measured else 'about '}{duration(self.seconds)}"


@dataclass
class Costs:
    """What the cells of a graph cost on one device."""

    device: str
    gpus: bool
    by_name: dict[str, Cost] = field(default_factory=dict)
    parallel: int = 1

    def of(self, cell: Cell) -> Cost:
        return self.by_name[cell.name]

    def wall(self, cells: Sequence[Cell]) -> float:
        """Seconds of one stage: no shorter than its longest cell, and what there is to do shared by all places."""
        seconds = [self.of(cell).seconds or 0.0 for cell in cells]
        return max(max(seconds, default=0.0), sum(seconds) / self.parallel)

    def total(self, stages: Sequence[Sequence[Cell]]) -> str:
        """The sum over the cells of all stages, one after the other, in words."""
        cells = [cell for stage in stages for cell in stage]
        known = [(cell, self.of(cell)) for cell in cells if self.of(cell).seconds is not None]
        unknown = len(cells) - len(known)
        seconds = sum(map(self.wall, stages))
        device_hours = sum((cost.seconds or 0.0) * cell.processes for cell, cost in known) / 3600
        disk = sum(cost.bytes for cost in (self.of(cell) for cell in cells)) / 2**30
        measured = sum(cost.measured for _, cost in known)
        unit = f"{self.device} hours" if self.gpus else "hours of this machine"
        words = f"Together: {len(cells)} cells, {duration(seconds)} with {self.parallel} at a time"
        words += f" ({device_hours:.1f} {unit}), {disk:.1f} GiB of disk"
        basis = f"{measured} estimated from finished cells of their kind, {len(known) - measured} from sizes (config/sizes.yaml)"
        return f"{words}. {basis}{f', {unknown} unknown' if unknown else ''}."


def estimated(graph: Graph, found: Mapping[str, State]) -> Costs:
    """The cost of every cell. Raises ValueError for a device that config/sizes.yaml does not know."""
    sizes = _sizes()
    choose("device", graph.study.device, sizes["devices"])
    times: dict[tuple, list[float]] = {}
    for name, cell in graph.cells.items():
        seconds = found[name].seconds
        if seconds is not None:
            times.setdefault(_kind(cell), []).append(seconds)
    costs = Costs(graph.study.device, graph.study.device != "cpu", parallel=graph.study.parallel or 1)
    for name, cell in graph.cells.items():
        cfg = composed_settings(cell)
        known = times.get(_kind(cell))
        seconds = statistics.mean(known) if known else _from_sizes(cell, cfg, sizes, sizes["devices"][graph.study.device])
        costs.by_name[name] = Cost(seconds, known is not None, _bytes(cell, cfg, sizes, graph.study.keep))
    return costs


def _kind(cell: Cell) -> tuple:
    """Cells of one kind take about as long."""
    return (cell.script, cell.entry.name if cell.script != "evaluate" else "", cell.evaluation)


@cache
def _sizes() -> dict[str, Any]:
    sizes = OmegaConf.to_container(OmegaConf.load(CONFIG / "sizes.yaml"))
    assert isinstance(sizes, dict)
    return sizes


@dataclass(frozen=True)
class Load:
    """What a command works through: items, tokens of each, and of the generated ones how many and how long."""

    items: float
    tokens: float
    generated: float = 0.0
    new_tokens: float = 0.0


def _from_sizes(cell: Cell, cfg: DictConfig, sizes: Mapping[str, Any], device: Mapping[str, float]) -> float | None:
    parameters = sizes["parameters"].get(cfg.model.name)
    load = _load(cell, cfg, sizes)
    if parameters is None or load is None:
        return None
    if cell.script == "evaluate":
        scored = SCORING * parameters * load.items * load.tokens / device["flops"]
        steps = load.new_tokens * math.ceil(load.generated / GENERATED_TOGETHER)
        computed = SCORING * parameters * load.new_tokens * load.generated / device["flops"]
        return START + scored + max(computed, 2 * parameters / device["bytes"] * steps)
    items = load.items * cfg.epochs if cfg.steps is None else cfg.steps * cfg.batch_size
    # In unlearning two streams, what is forgotten and what is kept beside it, and a reference model's forward with the second.
    streams = 1 if cell.script == "finetune" else 2.5
    return START + TRAINING * parameters * items * load.tokens * streams / (device["flops"] * cell.processes)


def _load(cell: Cell, cfg: DictConfig, sizes: Mapping[str, Any]) -> Load | None:
    """Counted in the data where they are at hand, else from published sizes."""
    data_root = str(cell.settings.get("data_root", cfg.data_root))
    if data_root != "hub":
        with open_dict(cfg):
            cfg.data_root = data_root
        counted = _counted(OmegaConf.to_yaml(cfg.benchmark, resolve=True), str(cfg.split), cell.script)
        if counted is not None:
            return counted
    known = sizes["benchmarks"].get(str(cfg.benchmark.name), {})
    if cell.script == "evaluate":
        return Load(known["answers"], known["tokens"], known["questions"], known["new_tokens"]) if "answers" in known else None
    rows = known.get("rows", {}).get(str(cfg.split))
    return None if rows is None else Load(rows, known["tokens"])


@cache
def _counted(benchmark: str, split: str, script: str) -> Load | None:
    """From the data themselves; None where they cannot be read."""
    from utils.runs.settings import build

    try:
        made = build(OmegaConf.create(benchmark), "benchmark")
        if script != "evaluate":
            rows = made.training(split)
            return Load(len(rows), statistics.mean(len(row.question) + len(row.answer) for row in rows) / LETTERS)
        asked = made.requests(split)
        answers = [len(one.question) + len(text) for one in asked for _, _, text in one.answers]
        generated = sum(one.truth is not None for one in asked)
        return Load(len(answers), statistics.mean(answers) / LETTERS, generated, float(made.max_new_tokens))
    except (ValueError, OSError, statistics.StatisticsError, AttributeError, TypeError):
        return None


def _bytes(cell: Cell, cfg: DictConfig, sizes: Mapping[str, Any], keep: str) -> float:
    parameters = sizes["parameters"].get(cfg.model.name, 0.0)
    if cell.script == "evaluate":
        return 2**20
    adapter = cfg.adapter.name != "none"
    if cell.entry.kind == "rows" and (keep == "scores" or (keep == "adapter" and not adapter)):
        return 0.0
    return parameters * (0.02 if adapter else 2 if cfg.model.dtype == "bfloat16" else 4)
