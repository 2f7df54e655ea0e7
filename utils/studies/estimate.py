"""What a study will still cost: measured times where cells of its kind have finished, else operations over a device's speed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from omegaconf import DictConfig, OmegaConf

from utils.checks import choose
from utils.runs.cli import CONFIG
from utils.studies.cells import Cell, Graph, composed_settings
from utils.studies.conduct import duration
from utils.studies.states import State

TRAINING, SCORING = 6, 2  # operations per parameter and token: forward and backward, forward alone
GENERATED_TOGETHER = 32
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

    def total(self, cells: Sequence[Cell]) -> str:
        """The sum over cells, in words."""
        known = [(cell, self.of(cell)) for cell in cells if self.of(cell).seconds is not None]
        unknown = len(cells) - len(known)
        seconds = sum(cost.seconds or 0.0 for _, cost in known)
        device_hours = sum((cost.seconds or 0.0) * cell.processes for cell, cost in known) / 3600
        disk = sum(cost.bytes for cost in (self.of(cell) for cell in cells)) / 2**30
        measured = sum(cost.measured for _, cost in known)
        unit = f"{self.device} hours" if self.gpus else "hours of this machine"
        words = f"Together: {len(cells)} cells, {duration(seconds / self.parallel)} with {self.parallel} at a time"
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


def _from_sizes(cell: Cell, cfg: DictConfig, sizes: Mapping[str, Any], device: Mapping[str, float]) -> float | None:
    parameters, benchmark = sizes["parameters"].get(cfg.model.name), str(cfg.benchmark.name)
    tokens = sizes["tokens_per_row"].get(benchmark)
    if parameters is None:
        return None
    if cell.script == "evaluate":
        questions = sizes["questions"].get(f"{benchmark} fixture" if cfg.data_root == "fixture" else benchmark)
        if questions is None:
            return None
        scored = SCORING * parameters * questions * (tokens or 100) * 3 / device["flops"]
        read = 2 * parameters / device["bytes"] * sizes["new_tokens"] * questions / GENERATED_TOGETHER
        return START + scored + read
    of = f"{benchmark} fixture" if cfg.data_root == "fixture" else benchmark
    rows = sizes["rows"].get(of, {}).get(str(cfg.split))
    items = None if rows is None else rows * cfg.epochs
    if cfg.steps is not None:
        items = cfg.steps * cfg.batch_size
    if items is None or tokens is None:
        return None
    # Two streams, what is forgotten and what is kept beside it, in unlearning; the reference model's forward with the second.
    streams = 1 if cell.script == "finetune" else 2.5
    return START + TRAINING * parameters * items * tokens * streams / (device["flops"] * cell.processes)


def _bytes(cell: Cell, cfg: DictConfig, sizes: Mapping[str, Any], keep: str) -> float:
    parameters = sizes["parameters"].get(cfg.model.name, 0.0)
    if cell.script == "evaluate":
        return 2**20
    adapter = cfg.adapter.name != "none"
    if cell.entry.kind == "rows" and (keep == "scores" or (keep == "adapter" and not adapter)):
        return 0.0
    return parameters * (0.02 if adapter else 2 if cfg.model.dtype == "bfloat16" else 4)
