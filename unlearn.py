"""Runs one unlearning method on one benchmark.

python unlearn.py method=flat model.path=runs/target split=forget10 out=runs/flat
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from utils.runs.cli import check_command_line, one_sentence
from utils.runs.inherited_settings import follows_weights


@hydra.main(config_path="config", config_name="unlearn", version_base="1.3")
@one_sentence
@follows_weights
def main(cfg: DictConfig) -> None:
    # Slow imports: a misspelt name was refused without them.
    from utils import distributed
    from utils.reading import files_read
    from utils.runs.load import make_encoder
    from utils.runs.run import Run
    from utils.runs.settings import check_training
    from utils.runs.terminal.closing import after_training, say
    from utils.runs.train import make_streams, train

    with files_read() as data:
        settings = check_training(cfg, "unlearn")
        benchmark, method = settings.benchmark, settings.method
        distributed.start()

        forget = benchmark.training(cfg.split)
        retain = benchmark.training(benchmark.retain_split(cfg.split))
        templates = method.template_answers(cfg.refusals, retain)
        encoder = make_encoder(cfg.model, benchmark, "unlearn", cfg.compat)
        streams = make_streams(settings, encoder, forget, retain, templates)

    with Run.open(cfg, "unlearn", data, settings.counts) as run:
        if not run.skip:
            train(settings, run, encoder, streams)
    say(after_training(run.folder, benchmark))


if __name__ == "__main__":
    check_command_line("unlearn")
    main()
