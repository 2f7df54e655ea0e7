"""Finds the tensors that MemFlex trains, without training: writes region.json and, to look at, region.html.

    python scripts/localize.py model=tiny model.path=runs/target benchmark=tofu split=forget10 method.region.forget=null \\
        method.region.retain=null method.region.mu_quantile=0.5 method.region.sigma_quantile=0.5 out=runs/region
    python unlearn.py method=memflex model=tiny model.path=runs/target benchmark=tofu split=forget10 \\
        method.region.file=runs/region/region.json

Settings are those of unlearn.py; method.region holds the thresholds (config/method/memflex.yaml). Candidates are the tensors that
would train: LoRA tensors with adapter=continue, all weights with adapter=none. The region belongs to these weights in this
precision. Called again with the same out and other thresholds, it chooses anew from what it measured before.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import _path


def localize(overrides: Sequence[str]) -> list[Path]:
    """Writes region.json and region.html to `out`; returns what this process wrote. Raises ValueError for what cannot be done."""
    from utils import distributed  # slow imports: a misspelt name was refused without them
    from utils.files import write_text
    from utils.report.region_page import page
    from utils.runs.inherited_settings import settings_of
    from utils.runs.load import make_encoder, trainable_engine
    from utils.runs.settings import check_training, default_folder
    from utils.training.localize import GradientRegion
    from utils.weights.models import resolve_precision

    cfg = settings_of("unlearn", overrides)
    if cfg.out is None:
        cfg.out = default_folder(cfg, "localize")
    settings = check_training(cfg, "unlearn")
    benchmark, region = settings.benchmark, settings.method.region
    if not isinstance(region, GradientRegion):
        raise ValueError(f"method={cfg.method.name}: has no region to locate; use method=memflex")
    distributed.start()
    encoder = make_encoder(cfg.model, benchmark, "finetune", cfg.compat)
    precision = resolve_precision(cfg.precision, cfg.model.dtype, training=True)
    engine = trainable_engine(cfg.model, cfg.adapter, encoder, precision, cfg.seed)
    folder = Path(cfg.out)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "region.json", folder / "region.html"]
    located = region.locate(engine, encoder, benchmark, str(cfg.split), cfg.seed, paths[0])
    if not distributed.is_main():
        return []
    write_text(paths[1], page(located, f"{cfg.benchmark.name} {cfg.split}, {cfg.model.path}"))
    if not located.region:
        print(located.why_empty())
    return paths


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="+", metavar="KEY=VALUE", help="settings of unlearn.py, and out=DIR")
    overrides = ["method=memflex", *parser.parse_args(arguments).settings]

    from utils.runs.cli import check_command_line, errors_in_one_sentence

    check_command_line("unlearn", overrides)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    with errors_in_one_sentence():
        for path in localize(overrides):
            print(path)


if __name__ == "__main__":
    main()
