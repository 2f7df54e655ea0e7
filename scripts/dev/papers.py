"""Writes the tables of docs/papers.md: recipes, and for each paper its claims, the studies that can tell about them, what is
published, and what is measured, as far as docs/results holds it.

    python -m scripts.dev.papers

The page says between which marks a table stands; all else on it is written by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd

from utils import ROOT
from utils.files import write_text
from utils.runs.recipes import FOLDER as RECIPES
from utils.runs.recipes import recipe_settings, recipes
from utils.studies.archive import FOLDER as RESULTS
from utils.studies.study import Study, read_study, studies

PAGE = ROOT / "docs" / "papers.md"
PAPERS = {  # folder of config/study -> heading
    "tofu": "TOFU (arXiv 2401.06121)",
    "muse": "MUSE (arXiv 2407.06460)",
    "knowundo": "KnowUnDo (arXiv 2407.01920)",
    "flat": "FLAT (arXiv 2410.11143)",
    "meow": "MEOW (arXiv 2409.11844)",
    "sku": "SKU (arXiv 2402.10058)",
    "llmu": "LLMU (arXiv 2310.10683)",
    "open-unlearning": "open-unlearning (arXiv 2506.12618)",
}
NOT_RUN = "not run yet"


def page(text: str) -> str:
    """The page with its tables as they are now. Raises ValueError for a mark that it lacks."""
    for mark, lines in (("recipes", _recipes()), ("studies", _studies())):
        before, begun, rest = text.partition(f"<!-- {mark} -->\n")
        _, ended, after = rest.partition(f"<!-- end of {mark} -->")
        if not begun or not ended:
            raise ValueError(f"{PAGE.name}: write <!-- {mark} --> and <!-- end of {mark} --> around the table")
        text = "\n".join([f"{before}{begun}", *lines, f"\n{ended}{after}"])
    return text


def _recipes() -> Iterator[str]:
    head = ("`recipe=`", "what", "method", "`lr`", "length", "batch", "starts from")
    return _table(head, [_recipe(name) for name in recipes()])


def _recipe(name: str) -> list[str]:
    settings = recipe_settings(name, "unlearn", ())
    what = re.match(r"# (.*?\(.*?\))", (RECIPES / f"{name}.yaml").read_text("utf-8").splitlines()[1])
    length = f"{settings['epochs']} epochs" if "epochs" in settings else f"{settings['steps']} steps"
    path = settings.get("model.path")
    start = f"its target, `{settings['model']}`" if path == "???" else f"`{path or settings['model']}`"
    words = [f"`{name}`", what[1] if what else "", f"`{settings['method']}`", f"{settings['lr']:g}", length]
    return [*words, str(settings["batch_size"]), start]


def _studies() -> Iterator[str]:
    read = [read_study(name) for name in studies()]
    for paper, heading in PAPERS.items():
        own = [study for study in read if study.name.startswith(f"{paper}/")]
        yield from (f"### {heading}", "")
        claims = list(dict.fromkeys(claim for study in own for claim in study.claims))
        yield from (f"{number}. {claim}" for number, claim in enumerate(claims, start=1))
        yield ""
        rows = [[*_command(study), _numbers(study, claims), _published(study), measured(study.name)] for study in own]
        yield from (*_table(("command", "what", "claims", "published", "measured"), rows), "")
    small = [study for study in read if study.name.partition("/")[0] not in PAPERS]
    yield from ("### At laptop scale", "")
    yield from _table(("command", "what", "measured"), [[*_command(study), measured(study.name)] for study in small])


def _command(study: Study) -> list[str]:
    return [f"`python scripts/study.py {study.name}`", study.title]


def _numbers(study: Study, claims: Sequence[str]) -> str:
    return ", ".join(str(claims.index(claim) + 1) for claim in study.claims)


def _published(study: Study) -> str:
    """Which published table stands beside a study, and how many of its values."""
    table = study.published_table
    if table is None:
        return "nothing that could be read"
    columns = [one if isinstance(one, str) else one["metric"] for one in study.columns]
    rows = [row for row in map(study.published_row, study.entries.values()) if row is not None]
    values = sum(table.cell(row, column).printed is not None for row in dict.fromkeys(rows) for column in columns)
    if not values:
        return f"{table.source}: {'could not be read' if table.unread else 'no column that is measured here'}"
    return f"{table.source}{', second-hand' if table.second_hand else ''}: {values} values"


def measured(study: str, folder: Path = RESULTS) -> str:
    """What is known of a study: a link to its table, and how its numbers stand to published ones."""
    numbers = folder / study / "numbers.parquet"
    if not numbers.is_file():
        return NOT_RUN
    lines = pd.read_parquet(numbers)
    cells = lines[lines["kind"] == "aggregate"]
    verdicts = cells["verdict"].dropna().value_counts()
    told = [f"{count} {word}" for word, count in sorted(verdicts.items())]
    return f"[{len(cells)} numbers](results/{study}/table.md){': ' if told else ''}{', '.join(told)}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


if __name__ == "__main__":
    write_text(PAGE, page(PAGE.read_text("utf-8")))
