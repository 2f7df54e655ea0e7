"""The metrics of MUSE (arXiv 2407.06460): what is recited, what is known, whether a text can be told to have been trained on.

    verbmem                          ROUGE-L F1 of the model's continuation of a forgotten passage against the true one
    knowmem_forget, knowmem_retain   ROUGE-L F1 of its short answers; on retained knowledge this is MUSE's measure of utility
    privleak                         100 (A - r) / r,   A = P(s_holdout < s_forget) + P(s_holdout = s_forget) / 2

s is the min-k% score of a text: minus the mean log-probability of the 40 % of its tokens that are least likely. r is the A of
the model that was retrained without the forget set. A is near 0 for a model that knows the forget texts by heart, 1/2 if they are
like any others, 1 if they are less likely than texts never seen: 1 minus the usual AUC of membership tests. So privleak is -100
where everything leaks, 0 where the retrained model stands, and positive, up to 100 (1 / r - 1), where unlearning itself shows.

What MUSE's code logs besides is here as far as saved scores give it: k of 5 to 60 %, and the mean loss ("PPL"), alone and per
byte of the compressed text. `FORMS` lists what other code does differently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from metrics.benchmarks.open_unlearning_logs import COMPAT, MUSE, open_logs
from metrics.measures.membership import GROUPS
from metrics.membership_attacks import auc, loss_attack, min_k, privleak, zlib_attack
from metrics.rouge import rouge
from metrics.tables import by_question, mean_over
from utils.checks import choose, share
from utils.items.metric import Metric, Samples, measured
from utils.items.saved import Metrics, Row, Saved

GENERATED = {
    "verbmem": "the continuation of passages to be forgotten, against their true continuation",
    "knowmem_forget": "answers to questions about what is to be forgotten",
    "knowmem_retain": "answers to questions about what is to stay (MUSE's utility)",
}
FORGET, HOLDOUT = "privleak_forget", "privleak_holdout"
ATTACKED = dict(zip(GROUPS, (FORGET, HOLDOUT), strict=True))
MIN_K = "mia_min_k"  # open-unlearning's name of the attack behind privleak, with a k of 0.4
STOPS = ("\n\n", "\nQuestion", "Question:")  # where an answer among worked examples ends, in released code's order
SHARES = (5, 10, 20, 30, 40, 50, 60)  # percent of a text's tokens
PAPER = "MUSE (arXiv 2407.06460)"

# A of the authors' retrained models (Llama-2-7b, ICLM-7B): constants of MUSE's second release.
PUBLISHED: dict[str, dict[str, float]] = {
    "news": {"min20": 0.4931, "min40": 0.4772, "min60": 0.4671, "ppl": 0.4652, "zlib": 0.4328},
    "books": {"min20": 0.5582, "min40": 0.5393, "min60": 0.4841, "ppl": 0.4746, "zlib": 0.2773},
}


@dataclass(frozen=True)
class Form:
    """How a code base computes MUSE. Defaults: the paper, with which MUSE's own code agrees.

    stemmer, scale: of ROUGE. whole_truth: the true continuation is not cut to the length of the generated one.
    max_tokens: of a text that are read for its score. drop_last: the last one is left out, and no attack but min-k% is made.
    memorised: the AUC that is reported for a model that knows all forget texts by heart, 0 or 1; privleak is the same with both.
    eps: added to the denominator of privleak. published, retrained: r where no retrained model was scored, the constants of
    PUBLISHED or this one; without either there is no privleak.
    """

    stemmer: bool = False
    scale: float = 100.0
    whole_truth: bool = False
    max_tokens: int | None = None
    drop_last: bool = False
    memorised: int = 0
    eps: float = 0.0
    published: bool = False
    retrained: float | None = None


FORMS: dict[str, Form] = {
    "none": Form(),
    "muse_released": Form(published=True),
    "open_unlearning": Form(
        stemmer=True, scale=1.0, whole_truth=True, max_tokens=2048, drop_last=True, memorised=1, eps=1e-10, retrained=0.5
    ),
}


def cut_answer(text: str) -> str:
    """What stands before the first of STOPS."""
    for stop in STOPS:
        text = text.split(stop, 1)[0]
    return text


@dataclass(frozen=True)
class MuseMetrics(Metrics):
    """From saved tables to the metrics of MUSE.

    k: share of tokens behind `privleak`. stemmer: of ROUGE; None: as `compat` says. corpus: news | books, of which there are
    published constants; another name has none. retrained_auc: where r comes from, measured (the retrained model's scores; without
    them as `compat` says) | published (the constants, whatever was scored). Raises ValueError for another value of these, and for
    published where there is no constant.
    """

    k: float = 0.4
    stemmer: bool | None = None
    corpus: str | None = None
    retrained_auc: str = "measured"

    def __post_init__(self) -> None:
        share("benchmark.metrics.k", self.k, "MUSE: 0.4")
        share("benchmark.metrics.k", self.k)
        choose("benchmark.metrics.corpus", self.corpus, ("news", "books", None))
        choose("benchmark.metrics.stemmer", self.stemmer, (True, False, None))
        choose("benchmark.metrics.retrained_auc", self.retrained_auc, ("measured", "published"))
        if self.retrained_auc == "published" and _named(self.k) not in PUBLISHED.get(self.corpus, {}):
            raise ValueError(
                "benchmark.metrics.retrained_auc=published: MUSE has constants for news and books at k of 0.2, 0.4 and 0.6, "
                f"not for corpus={self.corpus} at k={self.k}; score the retrained model instead, with oracle=DIR"
            )

    def numbers(self, saved: Saved) -> dict[str, Metric]:
        """All MUSE metrics that the rows allow, in percent (ROUGE under open_unlearning as shares).

        Raises ValueError for an unknown compat, and if the model and the retrained one were scored on different texts.
        """
        choose("compat", saved.compat, FORMS)
        metrics: dict[str, Metric] = {}
        for task in GENERATED:
            if rows := saved.rows(task):
                metrics[task] = self._rouge(task, rows, saved.compat, saved.resamples)
        attacked = attack_scores(saved.scores, self.k, FORMS[saved.compat])
        if attacked:
            retrained = {} if saved.oracle is None else attack_scores(saved.oracle, self.k, FORMS[saved.compat])
            for attack in attacked[FORGET].columns:
                groups = _same_texts(attacked, retrained, attack)
                metrics |= self._attack(attack, groups, saved.compat, saved.resamples)
        return metrics

    def from_logs(self, log: Path, oracle_log: Path | None, asked: Saved) -> dict[str, Metric]:
        """The metrics of open-unlearning's logs (MUSE_EVAL.json). asked: without tables. Raises ValueError for other logs."""
        logs = open_logs("muse", log, oracle_log, asked)
        if logs is None:
            raise ValueError(f"{log}: is no log of open-unlearning, of whose logs benchmark=muse reads MUSE_EVAL.json")
        form, resamples = FORMS[COMPAT], logs.about.resamples
        metrics: dict[str, Metric] = {}
        for task, name in MUSE.items():
            if name in logs.model.content:
                values = logs.model.items(name, "rougeL_f1")
                metrics[task] = mean_over(values, _rouge_words(task, form.stemmer, COMPAT), resamples, task)
        if MIN_K in logs.model.content:
            own, of_oracle = logs.groups(MIN_K)
            if of_oracle is not None or logs.about.oracle is None:
                sides = [scores for scores in (own, of_oracle) if scores is not None]
                groups = {task: np.column_stack([side[group] for side in sides]) for group, task in ATTACKED.items()}
                metrics |= self._attack(_named(self.k), groups, COMPAT, resamples)
        return metrics | logs.measures()

    def _rouge(self, task: str, rows: Sequence[Row], compat: str, resamples: int) -> Metric:
        form = FORMS[compat]
        stemmer = form.stemmer if self.stemmer is None else self.stemmer
        values = [form.scale * rouge(*_said_and_true(task, row, form), stemmer).rougeL_f1 for row in rows]
        return mean_over(by_question(values, rows), _rouge_words(task, stemmer, compat), resamples, task)

    def _attack(self, attack: str, groups: Samples, compat: str, resamples: int) -> dict[str, Metric]:
        """The AUC of one attack, and where r is known privleak, each with its interval over the texts of both sets."""
        form, n = FORMS[compat], sum(map(len, groups.values()))
        main, with_oracle = attack == _named(self.k), groups[FORGET].shape[1] > 1
        told = f"{form.memorised} if it knows the forget texts by heart"
        about = f"s = {_described(attack)}, compat={compat}; {PAPER}"

        def metric(of: Callable[[Samples], float], definition: str) -> Metric:
            return measured(groups, f"{definition}; {about}", of, n=n, resamples=resamples)

        found = {"privleak_auc": metric(lambda s: _reported(s, 0, form), f"AUC of this model, {told}")}
        if main and with_oracle:
            found["privleak_auc_retrained"] = metric(lambda s: _reported(s, 1, form), f"AUC of the retrained model, {told}")
        baseline = self._baseline(attack, form, with_oracle)
        if baseline is not None:
            constant, source = baseline
            r = _a(groups, 1) if constant is None else constant
            definition = f"100 (A - r) / r, A = P(s of a holdout text < s of a forget text), ties half, r = {r:.4f} {source}"
            found["privleak"] = metric(lambda s: _privleak(s, constant, form), definition)
        return found if main else {f"{name}_{attack}": value for name, value in found.items()}

    def _baseline(self, attack: str, form: Form, measured: bool) -> tuple[float | None, str] | None:
        """(r, or None if it is measured, and what it is of); None where r is not known."""
        published = PUBLISHED.get(self.corpus, {}).get(attack)
        wanted = self.retrained_auc == "published"
        if measured and not wanted:
            return None, "of the retrained model on the same texts"
        if form.retrained is not None and not wanted:
            return form.retrained, "for want of the retrained model's scores"
        if published is not None and (wanted or form.published):
            return published, f"as published for the authors' retrained model ({self.corpus})"
        return None


def _rouge_words(task: str, stemmer: bool, compat: str) -> str:
    scale = "percent" if FORMS[compat].scale == 100 else "a share"
    return f"mean ROUGE-L F1, {scale}, of {GENERATED[task]}; stemmer={stemmer}, compat={compat}; {PAPER}"


def attack_scores(table: pd.DataFrame, k: float, form: Form) -> dict[str, pd.DataFrame]:
    """Task -> one row for each text (its index), one column for each attack: s, high for a text that the model finds unlikely.

    The attacks: min-k% for `k`, named min40; but for open-unlearning also for SHARES, ppl (the mean loss), and zlib (ppl per byte
    of the compressed text). Empty without rows of both tasks. Raises ValueError for a NaN.
    """
    found = {}
    for task in (FORGET, HOLDOUT):
        rows = table[(table["task"] == task) & (table["role"] == "answer")].set_index("index").sort_index()
        values = [_text_scores(logp, text, k, form) for logp, text in zip(rows["logp"], rows["wanted"], strict=True)]
        found[task] = pd.DataFrame(values, index=rows.index)
        undefined = found[task].isna().any(axis=1)
        if undefined.any():
            raise ValueError(f"task {task}, row {undefined.idxmax() + 1}: a log-probability is NaN; evaluate again in float32")
    return found if all(map(len, found.values())) else {}


def _text_scores(logp: ArrayLike, text: str, k: float, form: Form) -> dict[str, float]:
    read = np.asarray(logp, dtype=np.float64)[: form.max_tokens]
    if form.drop_last:  # open-unlearning, which gives 0 where nothing is left
        return {_named(k): min_k(read[:-1], k) if len(read) > 1 else 0.0}
    shares = {_named(k): k, **{_named(percent / 100): percent / 100 for percent in SHARES}}
    lowest = {name: min_k(read, share) for name, share in shares.items()}
    return {**lowest, "ppl": loss_attack(read), "zlib": zlib_attack(read, text)}


def _same_texts(model: Mapping[str, pd.DataFrame], retrained: Mapping[str, pd.DataFrame], attack: str) -> Samples:
    """Task -> (n, 1) scores, or (n, 2) with those of the retrained model beside them: a text is drawn with both of its scores."""
    groups = {}
    for task, own in model.items():
        columns = [own[attack]]
        if retrained:
            columns.append(retrained[task][attack])
            if list(own.index) != list(retrained[task].index):
                raise ValueError(
                    f"task {task}: oracle.parquet has other rows than scores.parquet; evaluate both on the same data"
                )
        groups[task] = np.column_stack(columns)
    return groups


def _a(groups: Samples, column: int) -> float:
    # The usual AUC with its two groups exchanged: forget texts stand where holdout texts do.
    return auc(groups[HOLDOUT][:, column], groups[FORGET][:, column])


def _reported(groups: Samples, column: int, form: Form) -> float:
    a = _a(groups, column)
    return 1 - a if form.memorised else a


def _privleak(groups: Samples, constant: float | None, form: Form) -> float:
    a, r = _a(groups, 0), _a(groups, 1) if constant is None else constant
    if r + form.eps == 0:  # of few texts: half a pair is then the least that either can be
        least = 1 / (2 * len(groups[FORGET]) * len(groups[HOLDOUT]))
        a, r = max(a, least), least
    return privleak(1 - a, 1 - r, form.eps)


def _said_and_true(task: str, row: Row, form: Form) -> tuple[str, str]:
    """The two texts that ROUGE compares. `truth_cut`: as much of the true continuation as the model was allowed to say."""
    if task != "verbmem":
        return cut_answer(row["generation"]), row["truth"]
    if form.whole_truth:
        return row["generation"], row["truth"]
    if "truth_cut" not in row:
        raise ValueError(f"task verbmem, row {row['index'] + 1}: generations.jsonl lacks truth_cut; evaluate again")
    return row["generation"], row["truth_cut"]


def _named(k: float) -> str:
    return f"min{round(100 * k, 6):g}"


def _described(attack: str) -> str:
    if attack.startswith("min"):
        return f"-mean log p of the {attack[3:]} % least likely tokens of a text"
    return {"ppl": "mean loss of a text", "zlib": "mean loss of a text / bytes of its zlib compression"}[attack]
