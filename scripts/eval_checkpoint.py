"""Evaluates a checkpoint on one benchmark, with the settings of the run that made it.

    python scripts/eval_checkpoint.py tofu runs/flat oracle=runs/retain90
    python scripts/eval_checkpoint.py utility locuslab/tofu_ft_llama2-7b model=llama2-7b-chat data_root=hub

MODEL is a run folder, a checkpoint folder or a Hub name. A run folder brings its model, forget split, data_root and the options
of its benchmark along; key=value says otherwise, and sets any other dial of evaluate.py. The result goes to
MODEL/eval_<benchmark>, or, if MODEL is no run folder, to runs/evaluate/<name>/<benchmark>.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import _path

from utils import ROOT


def command_of(benchmark: str, model: str, overrides: Sequence[str]) -> list[str]:
    """Arguments of evaluate.py. Raises ValueError for a run folder whose run is not finished."""
    from utils.files import read_json  # slow imports: --help does without them
    from utils.runs.inherited_settings import inherited

    capsule = read_json(Path(model) / "run.json")
    chosen = [f"benchmark={benchmark}", *overrides]
    if capsule is None:
        return [*chosen, f"model.path={model}", f"out=runs/evaluate/{Path(model).name}/{benchmark}"]
    if capsule.get("script") not in ("finetune", "unlearn") or capsule.get("status") != "finished":
        raise ValueError(f"{model}: holds no finished run of finetune.py or unlearn.py; start it again, or name another folder")
    # What was memorised is no forget split: then the benchmark's own is evaluated.
    settings = {key: value for key, value in capsule["settings"].items() if key != "split" or capsule["script"] == "unlearn"}
    folder = [f"model.path={model}", f"out={Path(model) / f'eval_{benchmark}'}"]
    return [*inherited(settings, chosen), *folder, *chosen]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", help="a file of config/benchmark")
    parser.add_argument("model", metavar="MODEL", help="run folder, checkpoint folder or Hub name")
    parser.add_argument("--measure", metavar="NAMES", help="measured too, unless measure= says otherwise: fluency,membership")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings of evaluate.py")
    options = parser.parse_intermixed_args(arguments)

    from utils.runs.cli import check_command_line, errors_in_one_sentence

    settings = list(options.settings)
    if options.measure and not any(word.startswith("measure=") for word in settings):
        settings.append(f"measure=[{options.measure}]")
    check_command_line("evaluate", [f"benchmark={options.benchmark}", *settings])
    with errors_in_one_sentence():
        words = command_of(options.benchmark, options.model, settings)
    os.execv(sys.executable, [sys.executable, str(ROOT / "evaluate.py"), *words])


if __name__ == "__main__":
    main()
