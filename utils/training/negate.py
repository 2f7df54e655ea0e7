"""The `finish` of task-vector methods: what was learnt is taken from the model that it was learnt on.

    theta = theta_0 - coefficient * (theta_trained - theta_0)

For a LoRA adapter that is the adapter with the opposite sign. Source: SKU, stage 2 (arXiv 2402.10058); task vector as in MUSE
(arXiv 2407.06460). What was trained knows what is to be forgotten better than the original does, and in SKU it is more harmful on
purpose: it is deleted as soon as the result is on disk.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from utils.checks import choose, flag, positive
from utils.weights.arithmetic import negate
from utils.weights.folders import is_adapter, model_folder
from utils.weights.models import DTYPES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Negate:
    """The `finish` node of sku and task_vector.

    coefficient: lambda of SKU, alpha of MUSE. keep_trained: leave what was trained in trained/, for study. dtype: of the result;
    None: that of each original tensor, or of the adapter.
    Raises ValueError for a coefficient that is not above 0, or another option that is none.
    """

    coefficient: float = 1.0
    keep_trained: bool = False
    dtype: str | None = None

    def __post_init__(self) -> None:
        positive("coefficient", self.coefficient)
        flag("keep_trained", self.keep_trained)
        choose("dtype", self.dtype, (None, *DTYPES))

    def check(self, start: str, adapter: str, snapshots: int | str) -> None:
        """Raises ValueError where there is no difference of weights on disk to subtract, and where snapshots would outlive it."""
        refused = {
            "continue": "what an adapter gains on top of another is no adapter with the opposite sign; use adapter=lora on the "
            "model that the adapter is merged into",
            "qlora": "the adapter makes up for the rounding of 4-bit weights too, and negated would double it; use adapter=lora",
        }
        if adapter in refused:
            raise ValueError(f"adapter={adapter}: the method negates what is learnt, but {refused[adapter]}")
        if is_adapter(model_folder(start)):
            raise ValueError(
                f"model.path={start}: holds an adapter, and the method needs a whole model; merge it into its base "
                "(merge_and_unload of PEFT), save that, and give it as model.path"
            )
        if snapshots != "none" and not self.keep_trained:
            raise ValueError(
                f"snapshots={snapshots}: would keep weights from before the negation, and the method deletes those; use "
                "snapshots=none, or method.finish.keep_trained=true"
            )

    def __call__(self, original: Path, trained: Path, out: Path) -> None:
        """Writes `out`, then deletes `trained`. Raises WeightsError as `negate` of the weights does; `trained` then stays."""
        negate(original, trained, out, self.coefficient, None if self.dtype is None else DTYPES[self.dtype])
        if not self.keep_trained:
            shutil.rmtree(trained)
            return
        log.warning(
            "%s is the model before the negation: it knows what is to be forgotten better than the original does (it may be "
            "more harmful on purpose). Study it, but neither use nor publish it",
            trained,
        )
