"""From saved tables (scores.parquet, generations.jsonl) to what metrics read. Calls no model."""

from __future__ import annotations

import numpy as np
import pandas as pd


def average_losses(scores: pd.DataFrame) -> pd.DataFrame:
    """scores with a column `loss`: minus the mean log-probability of each answer's tokens, in nats, float64."""
    means = [-np.mean(np.asarray(values, dtype=np.float64)) for values in scores["logp"]]
    return scores.assign(loss=means)
