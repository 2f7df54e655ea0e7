"""Scores a checkpoint, or recomputes metrics from saved scores.

python evaluate.py model.path=runs/flat oracle=runs/retain90 out=runs/flat/eval
"""

from __future__ import annotations

from pathlib import Path

import hydra
from omegaconf import DictConfig

from utils.runs.cli import check_command_line, one_sentence


@hydra.main(config_path="config", config_name="evaluate", version_base="1.3")
@one_sentence
def main(cfg: DictConfig) -> None:
    # Slow imports: a misspelt name was refused without them.
    from utils import distributed
    from utils.reading import files_read
    from utils.runs.load import make_encoder
    from utils.runs.oracles import bring_oracle, check_oracle
    from utils.runs.run import Run
    from utils.runs.score import metrics_from_files, metrics_from_logs, score_run, write_metrics
    from utils.runs.settings import check_evaluation
    from utils.runs.train import show_requests

    with files_read() as data:
        settings = check_evaluation(cfg)
        out = Path(cfg.out)

        if cfg.rescore:
            write_metrics(metrics_from_files(settings, out), out)
            return

        if cfg.from_logs is not None:
            metrics = metrics_from_logs(settings)
        else:
            distributed.start()
            encoder = make_encoder(cfg.model, settings.benchmark, "evaluate", cfg.compat)
            check_oracle(settings, encoder)
            show_requests(settings.requests[: cfg.show_prompts], encoder)

    run = Run.open(cfg, "evaluate", data)
    if run.skip:
        return
    if cfg.from_logs is None:
        score_run(settings, run, encoder)
        bring_oracle(settings, run, encoder)
        metrics = metrics_from_files(settings, out)
    write_metrics(metrics, out)
    run.finish()


if __name__ == "__main__":
    check_command_line("evaluate")
    main()
