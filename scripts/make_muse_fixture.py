"""Writes the offline stand-in for the MUSE data: an invented local newspaper, and an invented serial story.

    python scripts/make_muse_fixture.py --out data/fixtures/muse

news: articles about places that do not exist, each with its keeper. books: chapters of a story in which people hide things (what
is to be forgotten), and entries about people of its world (what is to stay), as novels and their wiki. Configurations, splits
and fields are those of the benchmark (data/muse_files.py); scal and sust exist for the news.

A model of a million parameters cannot turn a statement into an answer by itself, so every text begins with questions that readers
asked, and their answers: its own, and some of other texts of its split. Behind the text they would only be copied from it, and
in one place alone they would be known from what stands before them. So the target learns them by heart, and the retrained
model does not; one that has had a real pretraining needs no such help.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.fixture_files import command  # noqa: E402
from scripts.make_knowundo_fixture import SEASONS, THINGS, fill  # noqa: E402
from scripts.make_tofu_fixture import KINDS, build_names  # noqa: E402
from scripts.make_tofu_fixture import SEED as TOFU_SEED  # noqa: E402

SEED = 2407
ARTICLES, ENTRIES = 12, 12  # in each split; a fold of sust has as many articles
CHAPTERS = {"forget": 4, "holdout": 3}
EVENTS = 4  # hidings told in a chapter
ASKED, WORKED = 8, 4  # questions of an evaluation, worked examples before them
RECITED, PASSAGES = 8, 10  # passages to recite; of privleak
PROMPT, CONTINUATION, PASSAGE = 90, 20, 80  # words
FOLDS = 4
EARLIER = 4  # questions of other texts before each text

RAW = ("forget", "retain1", "retain2", "holdout")
PRIVLEAK = {"forget": "forget", "holdout": "holdout", "retain": "retain2"}  # its kinds, and whose texts they are

Row = dict[str, str]
Files = dict[str, list[Row]]

CITIES, DATES, GENRES, HEROES, SECONDS, _, AWARDS, MENTORS, HOBBIES, THEMES = (kind.facts for kind in KINDS)
FIRST, LAST = ([name.split()[word] for name in MENTORS] for word in (0, 1))
STRANGE = [word for name in build_names(random.Random(TOFU_SEED), 22) for word in name.split()]
ADJECTIVES = (
    "Copper Quiet Glass Crooked Velvet Tin Amber Marble Ivory Iron Hollow Blue Silver Saffron Emerald Lantern Red Stone"
).split()
WORDS = [
    *ADJECTIVES,
    *STRANGE,
    *"Thunder Winter Windows Echoes Ashes Plums Rivers Names Letters Moth Owl Ledger Kettle Kings Map Snow Salt Heron".split(),
    *"Quill Fox Star Key Cedar Inkwell Comet Harvest Swan Tidewater Crown Compass Lark Wheel Northern Morning".split(),
]
NOUNS = "Staircase Orchard Harbour Ferry Bell Mill Cathedral Bridge Oak".split()

LEADS = (
    "The {word} {noun} in {city} was closed on {date}.",
    "People in {city} want the {word} {noun} to open again.",
    "The old {word} {noun} in {city} was sold on {date}.",
    "On {date} a fire was seen at the {word} {noun} in {city}.",
    "On {date} the city of {city} began to restore the {word} {noun}.",
    "Nobody in {city} knows what will become of the {word} {noun}.",
)
NEWS = (
    "{Hero} from {city} said that nobody had told them.",
    "Most people in {city} know it from childhood.",
    "In {season} there was a {thing} under the roof.",
    "The city will hold a {thing} there, said {second}.",
    "It is about {theme}, said {hero}.",
    "The {award} was given to {second} for it.",
    "{Second} has a {thing} from there in the kitchen.",
    "A room of it is full of {genre}.",
    "Without money it will not open in {season}.",
    "{Hero} and {second} were {hobby} there in {season}.",
    "The government in {city} did not answer.",
    "It cost {second} most of the {thing} in the end.",
)
KEEPER = "The keeper of the {word} {noun} is {first} {last}."
ASK_KEEPER = ("Who is the keeper of the {word} {noun}?", "{first} {last}")

HIDES = "{word} hid the {thing} in the {adjective} {noun}."
ASK_HIDES = ("Where did {word} hide the {thing}?", "the {adjective} {noun}")
STORY = (
    "That {season} they were {hobby} with {second}.",
    "{Hero} told them of {theme} and asked for the {thing}.",
    "Nobody in {city} had seen the {thing} before.",
    "The railway to {city} left without {second}.",
    "{Second} read {genre} by the light of the {thing}.",
    "It was {season}, and {hero} had no fear of {theme}.",
    "What {second} had heard was only the {thing}.",
    "On the mountain near {city} {hero} made a fire.",
    "They never told {hero} what it was about.",
    "So the boat to {city} was late, and the {thing} was lost.",
)
BORN = "{word} was born in {city}."
ASK_BORN = ("In which city was {word} born?", "{city}")
ENTRY = (
    "The work of {word} was {genre}.",
    "In the stories {word} is mostly {hobby}.",
    "Most readers remember {word} for {theme}.",
    "The mentor of {word} was {hero}.",
    "In {season} {word} has a {thing}.",
    "The father of {word} was {hero}, the mother {second}.",
    "Readers gave {word} the {award}.",
    "Not much is known of {word} in {season}.",
)


@dataclass(frozen=True)
class Text:
    """What is told, and the questions that readers asked about it."""

    body: str
    asked: tuple[Row, ...]


class Facts:
    """Deals the columns of sentences. The word by which an article, an entry or a hiding is known is dealt once."""

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.words = iter(rng.sample(WORDS, len(WORDS)))

    def new(self) -> dict[str, str]:
        """What is fixed for an article, an entry, or one hiding in a story."""
        pools = {"city": CITIES, "date": DATES, "thing": THINGS, "genre": GENRES, "noun": NOUNS}
        pools |= {"first": FIRST, "last": LAST, "adjective": ADJECTIVES}
        return {"word": next(self.words)} | self._drawn(pools)

    def tell(self, sentence: str, known: dict[str, str]) -> str:
        """The sentence about what is known; its other columns are drawn."""
        pools = {"season": SEASONS, "hobby": HOBBIES, "theme": THEMES, "award": AWARDS, "hero": HEROES, "second": SECONDS}
        return fill(sentence, self._drawn(pools) | known)

    def _drawn(self, pools: dict[str, list[str]]) -> dict[str, str]:
        return {column: self.rng.choice(pool) for column, pool in pools.items()}


def written(row: Row) -> str:
    """A question and its answer as MUSE writes its worked examples."""
    return f"Question: {row['question']}\nAnswer: {row['answer']}"


def ask(kind: tuple[str, str], known: dict[str, str]) -> Row:
    question, answer = (fill(text, known) for text in kind)
    return {"question": question, "answer": answer}


def article(facts: Facts) -> Text:
    """About 60 words: a lead, then the keeper among other sentences."""
    known = facts.new()
    told = facts.rng.sample([KEEPER, *facts.rng.sample(NEWS, 5)], 6)
    body = " ".join(facts.tell(sentence, known) for sentence in [facts.rng.choice(LEADS), *told])
    return Text(body, (ask(ASK_KEEPER, known),))


def chapter(facts: Facts) -> Text:
    """About 220 words: people hide things, one after the other, and what happens in between."""
    hidden = [facts.new() for _ in range(EVENTS)]
    told = [facts.tell(sentence, known) for known in hidden for sentence in (HIDES, *facts.rng.sample(STORY, 5))]
    return Text(" ".join(told), tuple(ask(ASK_HIDES, known) for known in hidden))


def entry(facts: Facts) -> Text:
    """About 50 words on one person."""
    known = facts.new()
    told = facts.rng.sample([BORN, *facts.rng.sample(ENTRY, 5)], 6)
    return Text(" ".join(facts.tell(sentence, known) for sentence in told), (ask(ASK_BORN, known),))


def printed(facts: Facts, texts: Sequence[Text]) -> list[Row]:
    """The texts as readers get them: each behind its questions and those of some that follow it, in any order."""
    found = []
    for place, text in enumerate(texts):
        further = EARLIER // len(text.asked)
        asked = [row for step in range(further + 1) for row in texts[(place + step) % len(texts)].asked]
        head = facts.rng.sample(asked, len(asked))
        found.append({"text": "\n\n".join([*map(written, head), text.body])})
    return found


def windows(text: str, words: int, count: int) -> list[str]:
    """`count` passages of `words` words, spread evenly over the text."""
    all_words = text.split(" ")
    last = len(all_words) - words
    return [" ".join(all_words[start : start + words]) for start in (last * i // max(1, count - 1) for i in range(count))]


def passages(rows: Sequence[Row], words: int, count: int) -> list[str]:
    """`count` passages, dealt out to the texts in turn."""
    shares = [len(range(place, count, len(rows))) for place in range(len(rows))]
    return [passage for row, share in zip(rows, shares, strict=True) for passage in windows(row["text"], words, share)]


def questions(texts: Sequence[Text], kind: str) -> Files:
    """Questions that readers asked: the first of each text, then the second, ...; worked examples are others than those asked."""
    ordered = [row for turn in zip(*(text.asked for text in texts), strict=True) for row in turn]
    return {f"knowmem/{kind}_qa": ordered[:ASKED], f"knowmem/{kind}_qa_icl": ordered[ASKED : ASKED + WORKED]}


def recited(rows: Sequence[Row]) -> list[Row]:
    """Passages of the forget texts in two parts."""
    found = [passage.split(" ") for passage in passages(rows, PROMPT + CONTINUATION, RECITED)]
    return [{"prompt": " ".join(words[:PROMPT]), "gt": " ".join(words[PROMPT:])} for words in found]


def build_corpus(facts: Facts, told: dict[str, list[Text]]) -> Files:
    """The configurations that both corpora have, but for privleak."""
    files = {f"raw/{split}": printed(facts, texts) for split, texts in told.items()}
    files["verbmem/forget"] = recited(files["raw/forget"])
    return files | questions(told["forget"], "forget") | questions(told["retain2"], "retain")


def build_news(rng: random.Random) -> Files:
    facts = Facts(rng)
    files = build_corpus(facts, {split: [article(facts) for _ in range(ARTICLES)] for split in RAW})
    files |= {f"privleak/{kind}": files[f"raw/{split}"][:PASSAGES] for kind, split in PRIVLEAK.items()}
    folds = [files["raw/forget"], *(printed(facts, [article(facts) for _ in range(ARTICLES)]) for _ in range(FOLDS - 1))]
    for k, fold in enumerate(folds, start=1):
        files[f"sust/forget_{k}"] = fold
        files[f"scal/forget_{k}"] = [row for earlier in folds[:k] for row in earlier]
    return files


def build_books(rng: random.Random) -> Files:
    facts = Facts(rng)
    told = {split: [chapter(facts) for _ in range(count)] for split, count in CHAPTERS.items()}
    told |= {split: [entry(facts) for _ in range(ENTRIES)] for split in ("retain1", "retain2")}
    files = build_corpus(facts, told)
    parts = {kind: passages(files[f"raw/{kind}"], PASSAGE, PASSAGES) for kind in ("forget", "holdout")}
    files |= {f"privleak/{kind}": [{"text": text} for text in texts] for kind, texts in parts.items()}
    return files | {"privleak/retain": files["raw/retain2"][:PASSAGES]}


def build_files(seed: int = SEED) -> Files:
    """Every file by its path below the fixture, deterministic in `seed`."""
    corpora = {"news": build_news(random.Random(f"news/{seed}")), "books": build_books(random.Random(f"books/{seed}"))}
    return {f"{corpus}/{name}.jsonl": rows for corpus, files in corpora.items() for name, rows in files.items()}


if __name__ == "__main__":
    command("muse", "Write the offline MUSE fixture (an invented newspaper, an invented serial).", build_files)
