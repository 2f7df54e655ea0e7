"""Scores a checkpoint, or recomputes metrics from saved scores.

python evaluate.py model.path=runs/flat oracle=runs/retain90 out=runs/flat/eval
"""

from __future__ import annotations

from pathlib import Path

import hydra
from omegaconf import DictConfig

from utils.runs.cli import check_command_line, one_sentence
from utils.runs.inherited_settings import follows_weights


@hydra.main(config_path="config", config_name="evaluate", version_base="1.3")
@one_sentence
@follows_weights
def main(cfg: DictConfig) -> None:
    # Slow imports: a misspelt name was refused without them. Files alone, scores or logs, are read without torch.
    from utils import distributed
    from utils.evaluation.numbers import metrics_from_files, write_metrics
    from utils.evaluation.results import describe
    from utils.reading import files_read
    from utils.runs.lineage import role_of_evaluated, tell_card
    from utils.runs.run import Run
    from utils.runs.settings import check_evaluation
    from utils.runs.terminal.closing import after_evaluation, say

    with files_read() as data:
        questions = check_evaluation(cfg)
        out = Path(cfg.out)

        if cfg.rescore:
            with Run.reopen(cfg, "evaluate") as run:
                metrics = metrics_from_files(out, questions, cfg.compat, cfg.resamples)
                run.note_again()
                write_metrics(metrics, out)
                tell_card(out, {**run.capsule["settings"], "compat": cfg.compat})
            say(after_evaluation(out))
            return

        if cfg.from_logs is not None:
            oracle_log = None if cfg.oracle in (None, "none") else Path(cfg.oracle)
            metrics = questions.benchmark.from_logs(Path(cfg.from_logs), oracle_log, cfg.compat, cfg.resamples)
        else:
            from utils.runs.load import make_encoder
            from utils.runs.oracles import bring_oracle, check_oracle
            from utils.runs.score import score_run, show_requests

            distributed.start()
            encoder = make_encoder(cfg.model, questions.benchmark, "evaluate", cfg.compat)
            check_oracle(cfg, questions, encoder)
            show_requests(questions.requests[: cfg.show_prompts], encoder)

    with Run.open(cfg, "evaluate", data) as run:
        if run.skip:
            say(after_evaluation(out))
            return
        run.note(role=role_of_evaluated(cfg))
        if cfg.from_logs is None:
            score_run(cfg, questions, encoder, run)
            bring_oracle(cfg, questions, encoder, run)
            run.note(results=describe(out))
            metrics = metrics_from_files(out, questions, cfg.compat, cfg.resamples)
        write_metrics(metrics, out)
        tell_card(out, run.settings)
        run.finish()
    say(after_evaluation(out))


if __name__ == "__main__":
    check_command_line("evaluate")
    main()
