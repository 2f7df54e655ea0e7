"""Writes the offline stand-in for the zero-shot tasks and WikiText: a handful of rows each, in the original layouts.

    python scripts/make_utility_fixture.py --out data/fixtures/utility

Files and fields are those of data/utility_files.py; MEOW's evaluations read arc/ARC-Easy_train.jsonl (examples to draw from),
wikitext/wiki.test.raw (lines of text) and cc_news/train.jsonl. Everything is invented (towns that do not exist) or trivially true
(sums, colours), and nothing can be learned from it about a model but that it was asked.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

SEED = 2410
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from scripts.fixture_files import command  # noqa: E402

ROWS = 8  # per task
LETTERS, DIGITS = "ABCDE", "12345"

TOWNS = "Harrowgate Osterby Tallowford Quillmar Brindlesea Fennwick Solvarn Ambermoor".split()
STONES = "granite marble slate chalk sandstone basalt limestone flint".split()
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()
THINGS = (("milk", "white"), ("grass", "green"), ("coal", "black"), ("a ripe lemon", "yellow"))
COLOURS = ("white", "green", "black", "yellow")
SIZES = (("kettle", "drawer"), ("ladder", "cupboard"), ("wardrobe", "lift"), ("piano", "van"))
# goal, what does it, what does not
DEEDS = (
    ("To carry water across a garden,", "fill a bucket and walk.", "fill a sieve and walk."),
    ("To see in a dark cellar,", "light a lamp before you go down.", "close your eyes before you go down."),
    ("To keep soup warm,", "put a lid on the pot.", "put the pot in the snow."),
    ("To dry a wet coat,", "hang it near the stove.", "hang it in the rain."),
    ("To cut a loaf of bread,", "use a knife with teeth.", "use a spoon with a long handle."),
    ("To open a locked door,", "turn the key in the lock.", "turn the page of a book."),
    ("To wake up early,", "set the alarm before going to bed.", "stop the clock before going to bed."),
    ("To cross a river without getting wet,", "take the bridge.", "take off the shoes."),
)
# what is done, the beginning, the next step, three that do not follow
SCENES = (
    ("Making tea", "A woman fills a kettle at the tap.", "she", "puts it on the stove."),
    ("Posting a letter", "A man writes an address on an envelope.", "he", "sticks a stamp on it."),
    ("Planting a tree", "Two children dig a hole in a field.", "they", "set a young tree into it."),
    (
        "[header] How to fold a shirt",
        "[title] Lay the shirt on a table. [step] Smooth it with your hands.",
        "then",
        "fold both arms back.",
    ),
)
ASTRAY = (
    "eats the piano.",
    "sails across the ceiling.",
    "becomes a number.",
    "sings to the envelope's uncle.",
    "paints the wind.",
)
# question, true, also true, false
BELIEFS = (
    (
        "What happens if you whisper to a stone?",
        "Nothing happens",
        "The stone stays as it was",
        ("The stone whispers back", "The stone melts"),
    ),
    (
        "Can a cat read a map?",
        "No, cats cannot read maps",
        "Cats do not read",
        ("Yes, cats read maps at night", "Only black cats can read maps"),
    ),
    (
        "How many moons are in a teacup?",
        "There are none",
        "No moon fits into a teacup",
        ("There are two moons", "One for each spoon"),
    ),
    (
        "What do clouds weigh on a Sunday?",
        "As much as on other days",
        "The day changes nothing",
        ("Nothing at all", "Twice as much"),
    ),
)

Row = dict[str, object]


def sums(rng: random.Random, count: int, labels: tuple[str, ...]) -> list[Row]:
    """Sums of two small numbers with four choices, in the fields of ARC; `labels` are taken in turn."""
    pairs = rng.sample([(a, b) for a in range(1, 6) for b in range(1, 6)], count)
    rows = []
    for number, (a, b) in enumerate(pairs):
        others = rng.sample([n for n in range(2, 12) if n != a + b], 3)
        choices = rng.sample([a + b, *others], 4)
        letters = labels[number % len(labels)][:4]
        texts = [NUMBERS[n] for n in choices]
        row = {"id": f"sum_{number}", "question": f"What is {NUMBERS[a]} plus {NUMBERS[b]}?"}
        rows.append({**row, "choices": {"text": texts, "label": list(letters)}, "answerKey": letters[choices.index(a + b)]})
    return rows


def colours(rng: random.Random, count: int) -> list[Row]:
    """Colours of known things, in the fields of OpenBookQA: the stem is the beginning of a sentence."""
    rows = []
    for number in range(count):
        thing, colour = THINGS[number % len(THINGS)]
        texts = rng.sample(COLOURS, 4)
        stem = f"The colour of {thing} is" if number < len(THINGS) else f"If something looks like {thing}, it is"
        row = {"id": f"colour_{number}", "question_stem": stem, "choices": {"text": texts, "label": list(LETTERS[:4])}}
        rows.append({**row, "answerKey": LETTERS[texts.index(colour)]})
    return rows


def bridges(rng: random.Random) -> tuple[list[Row], list[Row]]:
    """Of what the bridges of eight towns are made: BoolQ asks, RTE asserts; about half of it is so."""
    questions, statements = [], []
    for number, (town, stone) in enumerate(zip(TOWNS, rng.sample(STONES, len(STONES)), strict=True)):
        true = number % 2 == 0
        told = stone if true else rng.choice([other for other in STONES if other != stone])
        passage = f"{town} is a small town on a river that no map shows. Its only bridge is made of {stone} and very old."
        asked = f"is the bridge of {town.lower()} made of {told}"
        questions.append({"question": asked, "passage": f"{town} -- {passage}", "idx": number, "label": int(true)})
        told_so = f"The bridge of {town} is made of {told}."
        statements.append({"sentence1": passage, "sentence2": told_so, "label": int(not true), "idx": number})
    return questions, statements


def scenes(rng: random.Random) -> list[Row]:
    """HellaSwag: every scene twice, with other wrong endings."""
    rows = []
    for number in range(2 * len(SCENES)):
        activity, before, who, ending = SCENES[number % len(SCENES)]
        endings = rng.sample([ending, *rng.sample(ASTRAY, 3)], 4)
        row = {"ind": number, "activity_label": activity, "ctx_a": before, "ctx_b": who, "ctx": f"{before} {who}"}
        about = {"source_id": f"invented~{number}", "split": "val", "split_type": "indomain", "label": str(endings.index(ending))}
        rows.append({**row, "endings": endings, **about})
    return rows


def gaps() -> list[Row]:
    """WinoGrande: which of two things is too big, and which too small."""
    rows = []
    for number in range(2 * len(SIZES)):
        inner, outer = SIZES[number // 2]
        size, answer = (("big", inner), ("small", outer))[number % 2]
        options = [inner, outer] if number % 3 else [outer, inner]
        sentence = f"The {inner} did not go into the {outer} because the _ was too {size}."
        given = {"sentence": sentence, "option1": options[0], "option2": options[1]}
        rows.append({**given, "answer": str(options.index(answer) + 1)})
    return rows


def deeds(rng: random.Random) -> list[Row]:
    """PIQA: what works and what does not."""
    rows = []
    for goal, right, wrong in DEEDS:
        label = rng.randrange(2)
        solutions = (right, wrong) if label == 0 else (wrong, right)
        rows.append({"goal": goal, "sol1": solutions[0], "sol2": solutions[1], "label": label})
    return rows


def beliefs() -> list[Row]:
    """TruthfulQA: the one true answer of MC1 comes first, as in the original file."""
    rows = []
    for question, true, also, false in BELIEFS:
        first = {"choices": [f"{text}." for text in (true, *false)], "labels": [1, 0, 0]}
        second = {"choices": [f"{text}." for text in (true, also, *false)], "labels": [1, 1, 0, 0]}
        rows.append({"question": question, "mc1_targets": first, "mc2_targets": second})
    return rows


def articles(rng: random.Random) -> list[str]:
    """Articles about three towns as WikiText writes: blanks around punctuation, @-@ in compounds, headings between = signs."""
    pages = []
    for town in TOWNS[:3]:
        year, people = rng.randrange(1200, 1900), rng.randrange(2, 10)
        first, second = rng.sample(STONES, 2)
        lines = (
            f" = {town} = ",
            f" {town} is a town of {people} @,@ 400 people on a river that no map shows . A ferryman founded it in {year} . ",
            f' The town is known for its {first} bridge , which is said to hum in the wind ; some call it the " old flute " . ',
            " = = History = = ",
            f" In {year + 60} a well @-@ known baker built the {second} hall , which burned and came back smaller . ",
            f" Since then the people of {town} have kept a bucket of water at every door ( and one on the roof ) . ",
        )
        pages.append("".join(f"{line}\n \n" for line in lines))
    return pages


def news() -> list[Row]:
    """CC-News: the other five towns make the papers. The last item is too short to be continued."""
    told = "The council of {town} has decided that its {stone} fountain will be lit on market days, and that the ducks may stay."
    items = [{"text": told.format(town=town, stone=stone)} for town, stone in zip(TOWNS[3:], STONES, strict=False)]
    return [*items, {"text": "No news from the river today."}]


def build_files(seed: int = SEED) -> dict[str, str]:
    """path below the fixture's folder -> content."""
    rng = random.Random(seed)
    questions, statements = bridges(rng)
    pages = articles(rng)
    rows = {
        "boolq/validation.jsonl": questions,
        "rte/validation.jsonl": statements,
        "hellaswag/validation.jsonl": scenes(rng),
        "winogrande/winogrande_xl_validation.jsonl": gaps(),
        "arc/ARC-Challenge_test.jsonl": sums(rng, ROWS, (LETTERS, DIGITS)),
        "arc/ARC-Easy_test.jsonl": sums(rng, ROWS, (LETTERS,)),
        "arc/ARC-Easy_train.jsonl": sums(rng, ROWS, (LETTERS,)),
        "openbookqa/test.jsonl": colours(rng, ROWS),
        "piqa/validation.jsonl": deeds(rng),
        "truthfulqa/multiple_choice_validation.jsonl": beliefs(),
        "wikitext/wikitext-2-raw-v1_test_pages.jsonl": [{"page": page} for page in pages],
        "cc_news/train.jsonl": news(),
    }
    texts = {path: "".join(json.dumps(row) + "\n" for row in part) for path, part in rows.items()}
    return {**texts, "wikitext/wiki.test.raw": "".join(pages)}


if __name__ == "__main__":
    command("utility", "Write the offline fixture of the zero-shot tasks and WikiText.", build_files)
