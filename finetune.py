"""Makes a target model that has memorised a split, or a retain oracle: python finetune.py split=full out=runs/target"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from utils.runs.cli import check_command_line, one_sentence
from utils.runs.inherited_settings import follows_weights


@hydra.main(config_path="config", config_name="finetune", version_base="1.3")
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
        settings = check_training(cfg, "finetune")
        benchmark = settings.benchmark
        distributed.start()

        pairs = benchmark.training(cfg.split)
        if cfg.model.path is None:
            # Random weights know nothing of the world and cannot decline: both are learnt along the way, so that there is utility
            # to lose and a refusal is a known answer, as for a pretrained chat model.
            pairs += benchmark.general_knowledge()
        encoder = make_encoder(cfg.model, benchmark, "finetune", cfg.compat)
        streams = make_streams(settings, encoder, pairs)

    with Run.open(cfg, "finetune", data, settings.counts) as run:
        if not run.skip:
            train(settings, run, encoder, streams)
    say(after_training(run.folder, benchmark))


if __name__ == "__main__":
    check_command_line("finetune")
    main()
