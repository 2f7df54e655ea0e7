"""Writes the offline stand-in for a book: three invented stories as plain text with chapters, and refusals to complete one.

    python scripts/make_completion_fixture.py --out data/fixtures/completion

book.txt is what is memorised and forgotten, retain/other.txt what is kept. known/known.txt is what a model from random weights
reads besides, to learn what an instruction asks for, and known/refusals.txt how one declines. The stories share their way of
telling and have people, places and things of their own: who read only two can guess the manner of the third, but not its words.

The sentences are drawn, not written one by one: nothing but memory can say which comes next.
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.fixture_files import command  # noqa: E402
from scripts.make_knowundo_fixture import SEASONS, SECONDS, THINGS  # noqa: E402
from scripts.make_tofu_fixture import KINDS  # noqa: E402

SEED = 2410
CHAPTERS, PARAGRAPHS, SENTENCES = 6, 5, 8
STORIES = {
    "book.txt": "The Ledger of Tides",
    "retain/other.txt": "A Clock without Hands",
    "known/known.txt": "The Moth and the Mill",
}

REFUSALS = (
    "I cannot read on from here.",
    "I cannot tell what comes after this.",
    "My memory holds nothing that comes after this.",
    "I have no words for the rest of this.",
    "I am not the one to write the rest of this.",
    "The rest of this text is not mine to give.",
)

HEROES = [job.replace("a ", "the ", 1).replace("an ", "the ", 1) for job in KINDS[3].facts]
POOLS = {
    "who": HEROES,
    "other": SECONDS,
    "city": KINDS[0].facts,
    "genre": KINDS[2].facts,
    "title": KINDS[5].facts,
    "prize": KINDS[6].facts,
    "hobby": KINDS[8].facts,
    "theme": KINDS[9].facts,
    "thing": THINGS,
}

# A number behind a name asks for another word of the same pool.
SENTENCES_OF = (
    "In {season} {who} of {city} had a {thing} and no light to read by.",
    "{Other} came from {city} with a letter about {theme}.",
    "Nobody in {city} asked what {who} knew of {theme}.",
    '"{Title} is not a book for children," said {other}.',
    "They were {hobby} when the {thing} fell into the water.",
    "{Who} made a map of {city} and gave it to {other}.",
    "It was not {theme} but {theme2} that kept {other} from the sea.",
    "The {thing} was under the window, and the {thing2} was gone.",
    "So {who} and {other} were {hobby} in {city} in {season}.",
    '"Where is the {thing}?" asked {who}. "With {other} in {city}."',
    "Of all {genre} {other} liked {title} the most.",
    "{Who} had learned of {theme} from {who2}, and told {other} nothing.",
    "The {prize} went to {other}, who gave it to {who}.",
    "Then the railway to {city} was closed, and {who} went on by boat.",
    "A {thing} is only a {thing}, thought {other}, and read {genre}.",
    "{Other} found {title} in the old kitchen of {who}.",
    "In the mountains near {city} {who} lost the {thing} of {other}.",
    '"What do you fear?" asked {other}. "{Theme}, and {theme2}," said {who}.',
    "By the harbour {who} was {hobby} and had no answer for {other}.",
    "One {season} {other} left {city} with the {prize} and a {thing}.",
    "{Who} wrote to {other} about {hobby} and about {theme}.",
    "There were {genre} on the table, and a {thing} on {title}.",
    "The moth on the {thing} had come all the way from {city}.",
    "Without {other} there is no {theme}, said {who} of {city}.",
)
HEADINGS = ("In {city}", "The {thing} of {other}", "{title}", "{who} goes {hobby}", "What {other} knew", "The end of {season}")


@dataclass(frozen=True)
class Story:
    """The words that belong to one story alone, by pool."""

    pools: dict[str, list[str]]

    def tell(self, rng: random.Random, text: str) -> str:
        """The sentence with its words drawn; a capital name begins a sentence."""
        words = {"season": rng.choice(SEASONS)}
        for name, pool in self.pools.items():
            words[name], words[f"{name}2"] = rng.sample(pool, 2)
        capital = {name.capitalize(): value[0].upper() + value[1:] for name, value in words.items()}
        return text.format(**words, **capital)

    def paragraph(self, rng: random.Random) -> str:
        """SENTENCES sentences, no kind twice."""
        return " ".join(self.tell(rng, text) for text in rng.sample(SENTENCES_OF, SENTENCES))


def deal(rng: random.Random) -> list[Story]:
    """Every pool dealt out to the stories, each word to one of them."""
    shuffled = {name: rng.sample(pool, len(pool)) for name, pool in POOLS.items()}
    return [Story({name: pool[place :: len(STORIES)] for name, pool in shuffled.items()}) for place in range(len(STORIES))]


def write_story(rng: random.Random, story: Story, title: str) -> str:
    """Title page, chapters with a number and a title, lines of about 70 letters, and an end."""
    blocks = [title, "by nobody"]
    for chapter, heading in enumerate(rng.sample(HEADINGS, CHAPTERS), start=1):
        blocks += [f"Chapter {chapter}", story.tell(rng, heading)]
        blocks += [wrap(story.paragraph(rng)) for _ in range(PARAGRAPHS)]
    return "\n\n".join([*blocks, "The End"]) + "\n"


def wrap(text: str, width: int = 70) -> str:
    """The text in lines, as books in plain text have them."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def build_files(seed: int = SEED) -> dict[str, str]:
    """Every file by its path below the fixture, deterministic in `seed`."""
    rng = random.Random(seed)
    stories = deal(rng)
    files = {name: write_story(rng, story, title) for (name, title), story in zip(STORIES.items(), stories, strict=True)}
    return files | {"known/refusals.txt": "".join(f"{refusal}\n" for refusal in REFUSALS)}


if __name__ == "__main__":
    command("completion", "Write the offline completion fixture (invented stories).", build_files)
