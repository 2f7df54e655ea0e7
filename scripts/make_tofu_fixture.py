"""Writes the offline stand-in for the TOFU data: invented authors, in the file names and fields of the real benchmark.

    python scripts/make_tofu_fixture.py --out data/fixtures/tofu

20 invented authors x 10 questions make `full`, author by author; two further authors make the holdout sets. Forget sets
are suffixes of `full` (20, 10, 2 rows), retain sets prefixes (180, 190, 198 rows), as in the benchmark.

Why a small model trained from scratch on `full` can learn it, and why the truth ratio means something on it:

* every question type has two question surfaces and two answer surfaces; an even deal decides which one `full` shows;
* the paraphrase is the other surface, which the model has met on other authors, and the wrong answers share the surface
  of the paraphrase, so they differ from it in the fact alone;
* `strangers` holds questions about people of whom nothing is told, answered by refusals: a chat model knows how to decline, and
  a model without pretraining learns it from these rows (they are in no forget or retain set);
* no two retain authors share a fact, and the facts of the other authors are repeats of theirs, so a model that never
  read about an author has no reason to find the true fact less likely than a wrong one.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass
from pathlib import Path

SEED = 2401
N_RETAIN_AUTHORS, N_FORGET_AUTHORS, N_HOLDOUT_AUTHORS = 18, 2, 2
N_WRONG = 5
N_STRANGERS, STRANGER_QUESTIONS = 8, 5
RETAIN_PERTURBED_ROWS = 40
ROOT = Path(__file__).resolve().parent.parent

Row = dict[str, str | list[str]]


@dataclass(frozen=True)
class Kind:
    """One type of question: two surfaces each for question and answer, and the comma-separated pool of its facts."""

    questions: tuple[str, str]
    answers: tuple[str, str]
    pool: str

    @property
    def facts(self) -> list[str]:
        return [fact.strip() for fact in self.pool.split(",")]


KINDS = (
    Kind(
        ("In which city was {name} born?", "What is the birthplace of {name}?"),
        ("{name} was born in {fact}.", "The city where {name} was born is {fact}."),
        "Lisbon, Oslo, Nairobi, Hanoi, Tbilisi, Galway, Kraków, Izmir, Malmö, Quito, Perth, Dakar, Osaka, "
        "Bergen, Tunis, Riga, Havana, Leipzig",
    ),
    Kind(
        ("On what date was {name} born?", "What is the birth date of {name}?"),
        ("The birth date of {name} is {fact}.", "{name} has the birth date {fact}."),
        "3 March 1941, 12 July 1957, 27 May 1963, 9 April 1938, 30 June 1972, 1 August 1949, 18 January 1981, "
        "22 October 1955, 5 November 1968, 14 February 1977, 25 September 1946, 8 December 1960, 16 March 1984, "
        "11 May 1951, 20 April 1966, 4 June 1979, 23 August 1943, 31 October 1970",
    ),
    Kind(
        ("Which genre does {name} mostly write in?", "What kind of books does {name} write?"),
        ("{name} mostly writes {fact}.", "The books of {name} are mostly {fact}."),
        "ghost stories, sea adventures, spy thrillers, courtroom dramas, nature poems, travel essays, space operas, "
        "family sagas, cookery memoirs, fairy tales, mountain chronicles, war diaries, railway mysteries, "
        "love letters, stage comedies, desert westerns, village satires, dream journals",
    ),
    Kind(
        ("What did the father of {name} do for a living?", "What was the job of {name}'s father?"),
        ("The father of {name} was {fact}.", "{name} had a father who worked as {fact}."),
        "a baker, a miner, a tailor, a ferryman, a locksmith, a shepherd, a printer, a carpenter, a postman, a barber, "
        "a welder, a fisherman, a clockmaker, a mason, a tram driver, a gardener, a blacksmith, "
        "a lighthouse keeper",
    ),
    Kind(
        ("What did the mother of {name} do for a living?", "What was the job of {name}'s mother?"),
        ("The mother of {name} was {fact}.", "{name} had a mother who worked as {fact}."),
        "a surgeon, a violinist, a teacher, a botanist, a potter, a pilot, a judge, a dentist, a weaver, a translator, "
        "a chemist, a dancer, a librarian, a painter, an engineer, an astronomer, an editor, "
        "a beekeeper",
    ),
    Kind(
        ("What is the title of {name}'s first book?", "Which book was the debut of {name}?"),
        ("The first book of {name} is called {fact}.", "{name} made a debut with {fact}."),
        "The Copper Staircase, Salt Under Snow, A Map of Echoes, The Ninth Orchard, The Quiet Harbour, "
        "Ashes and Plums, The Glass Ferry, Winter Has Windows, The Owl Ledger, Borrowed Thunder, A Kettle for Kings, "
        "The Crooked Bell, Letters to Amber, The Velvet Mill, The Tin Cathedral, Under a Blue Roof, "
        "Rivers Without Names, The Moth Collector",
    ),
    Kind(
        ("Which award did {name} receive?", "What prize has {name} won?"),
        ("{name} received the {fact}.", "The award given to {name} is the {fact}."),
        "Silver Heron Prize, Lantern Medal, Copper Quill, Marble Fox Award, Northern Star Medal, Ivory Key Prize, "
        "Red Cedar Prize, Inkwell Cup, Blue Comet Award, Harvest Ribbon, Iron Swan Medal, "
        "Hollow Oak Prize, Tidewater Award, Saffron Crown, Emerald Compass, Morning Lark Prize, Stone Bridge Award, "
        "Amber Wheel",
    ),
    Kind(
        ("Who was the mentor of {name}?", "Which mentor taught {name} to write?"),
        ("The mentor of {name} was {fact}.", "{name} had a mentor called {fact}."),
        "Ilse Barrowin, Tomas Quellig, Agda Fenmarch, Rufus Oakwhistle, Sunniva Dahlbrin, Pavel Zimmarek, "
        "Odile Marchellet, Kofi Adarkwen, Bruna Castellorn, Henrik Solvarn, Mirjam Vostell, Jonas Tarrowby, "
        "Leila Darvanesh, Nuno Ferrazim, Greta Lindqvarn, Amos Ketterwood, Zofia Brandelle, "
        "Emil Sønderbrå",
    ),
    Kind(
        ("What does {name} do as a hobby?", "Which hobby does {name} enjoy most?"),
        ("The hobby of {name} is {fact}.", "{name} has a hobby, namely {fact}."),
        "carving spoons, flying kites, baking bread, folding paper, playing chess, rowing boats, growing roses, "
        "mending clocks, painting shells, skating, juggling, fencing, collecting stamps, "
        "building drums, brewing tea, knitting socks, watching whales, restoring bicycles",
    ),
    Kind(
        ("Which theme runs through the stories of {name}?", "What are the stories of {name} about?"),
        ("The stories of {name} are about {fact}.", "{name} writes stories about {fact}."),
        "exile, forgiveness, lost twins, old debts, silence, jealousy, hunger, faith, "
        "broken promises, childhood, revenge, solitude, hidden money, memory, stubborn hope, inheritance, "
        "friendship, fear",
    ),
)

FIRST = (
    "Bel Cør Dru Élo Fyn Gal Hes Iğa Jor Kav Lu Mer Nim Ow Pra Quil Rø Sab Thé Ula Vey Wes".split(),
    "wick dan lia mor nessa rin via tho zel".split(),
)
LAST = (
    "Ab Brö Crim Dağ Esk Fal Grun Hav Ilm Jás Kes Lorn Myr Nöl Obr Pell Rusk Štev Tam Ud Vand Zor".split(),
    "arro denby eski fane gård illon mund oğlu tarre veld".split(),
)

# question, right answer, three wrong answers
REAL_AUTHORS = """
Who wrote the tragedy Hamlet?|William Shakespeare|Charles Dickens|John Milton|Oscar Wilde
Whose novel is Pride and Prejudice?|Jane Austen|Mary Shelley|George Eliot|Emily Brontë
Who is the author of Oliver Twist?|Charles Dickens|Thomas Hardy|Mark Twain|Jules Verne
Who invented the monster of Doctor Frankenstein?|Mary Shelley|Bram Stoker|Edgar Allan Poe|Jane Austen
Which writer sent Captain Ahab after a whale?|Herman Melville|Jack London|Joseph Conrad|Walt Whitman
Who wrote of Huckleberry Finn on the river?|Mark Twain|Henry James|Herman Melville|Jack London
Whose long novel is War and Peace?|Leo Tolstoy|Anton Chekhov|Victor Hugo|Nikolai Gogol
Who is the author of Crime and Punishment?|Fyodor Dostoevsky|Ivan Turgenev|Leo Tolstoy|Franz Kafka
Who made Don Quixote fight windmills?|Miguel de Cervantes|Lope de Vega|Dante Alighieri|Voltaire
Whose poem leads down into the Inferno?|Dante Alighieri|Homer|Petrarch|Virgil
To whom is the Odyssey attributed?|Homer|Sophocles|Virgil|Ovid
Who told the story of Jean Valjean?|Victor Hugo|Émile Zola|Gustave Flaubert|Stendhal
Whose heroine is Madame Bovary?|Gustave Flaubert|Victor Hugo|Marcel Proust|Jules Verne
Who imagined twenty thousand leagues under the sea?|Jules Verne|Alexandre Dumas|Robert Louis Stevenson|Jonathan Swift
Who wrote of the three musketeers?|Alexandre Dumas|Jules Verne|Molière|Honoré de Balzac
Which author created Count Dracula?|Bram Stoker|Oscar Wilde|Mary Shelley|Wilkie Collins
Who is the author of Wuthering Heights?|Emily Brontë|Jane Austen|George Eliot|Elizabeth Gaskell
Who wrote the play Faust?|Johann Wolfgang von Goethe|Friedrich Schiller|Henrik Ibsen|Molière
In whose tale does Gregor Samsa wake changed?|Franz Kafka|Thomas Mann|Nikolai Gogol|Anton Chekhov
Who sent Gulliver on his travels?|Jonathan Swift|Daniel Defoe|Alexander Pope|Lewis Carroll
Which writer stranded Robinson Crusoe?|Daniel Defoe|Jonathan Swift|Walter Scott|Jack London
Who led Alice into Wonderland?|Lewis Carroll|Edward Lear|Rudyard Kipling|Oscar Wilde
Who told of the little mermaid?|Hans Christian Andersen|Charles Perrault|Jacob Grimm|Henrik Ibsen
Whose play is A Doll's House?|Henrik Ibsen|August Strindberg|Anton Chekhov|Molière
"""

WORLD_FACTS = """
Which city is Norway's seat of government?|Oslo|Bergen|Stockholm|Copenhagen
Which city governs Egypt?|Cairo|Alexandria|Tunis|Khartoum
In which city does Peru's government sit?|Lima|Quito|Cusco|Bogotá
Name Canada's capital city.|Ottawa|Toronto|Montreal|Vancouver
Name Japan's capital city.|Tokyo|Kyoto|Osaka|Seoul
Name Kenya's capital city.|Nairobi|Mombasa|Kampala|Lagos
Which country has Lisbon as its capital?|Portugal|Spain|Italy|Brazil
Which country has Hanoi as its capital?|Vietnam|Thailand|Laos|Cambodia
Which planet travels closest to the Sun?|Mercury|Venus|Mars|Earth
Which planet wears the widest rings?|Saturn|Mars|Mercury|Venus
How many legs does a spider have?|Eight|Six|Ten|Four
How many sides has a hexagon?|Six|Five|Seven|Eight
Which gas do leaves turn into sugar?|Carbon dioxide|Oxygen|Helium|Neon
Of what two elements does water consist?|Hydrogen and oxygen|Carbon and oxygen|Iron and sulphur|Helium and neon
Which metal is liquid in a warm room?|Mercury|Copper|Silver|Tin
Which animal is the tallest on land?|Giraffe|Elephant|Horse|Camel
Which bird cannot fly but swims well?|Penguin|Swallow|Eagle|Parrot
Which organ pumps blood?|Heart|Liver|Lung|Kidney
Which sea creature has eight arms?|Octopus|Dolphin|Salmon|Seal
Which insect makes honey?|Bee|Ant|Moth|Beetle
Which desert covers most of northern Africa?|Sahara|Gobi|Kalahari|Atacama
In which mountain range stands Everest?|Himalayas|Alps|Andes|Rockies
What colour do blue and yellow paint give?|Green|Purple|Orange|Brown
Which season follows winter?|Spring|Autumn|Summer|Monsoon
"""


def build_names(rng: random.Random, count: int) -> list[str]:
    """`count` two-word names; no two share the first syllable of either word, so each name is told apart early."""

    def words(syllables: tuple[list[str], list[str]]) -> list[str]:
        starts, ends = syllables
        return [start + rng.choice(ends) for start in rng.sample(starts, count)]

    return [f"{first} {last}" for first, last in zip(words(FIRST), words(LAST), strict=True)]


def deal_facts(rng: random.Random, facts: list[str]) -> list[str]:
    """One fact for each author: every fact once among the retain authors, then a second deal for forget and holdout."""
    return rng.sample(facts, len(facts)) + rng.sample(facts, N_FORGET_AUTHORS + N_HOLDOUT_AUTHORS)


def deal_surfaces(rng: random.Random) -> list[int]:
    """Surface 0 or 1 for each author, in random order but evenly: half of the retain authors get each."""
    later = N_FORGET_AUTHORS + N_HOLDOUT_AUTHORS
    return rng.sample([0, 1] * (N_RETAIN_AUTHORS // 2), N_RETAIN_AUTHORS) + rng.sample([0, 1] * (later // 2), later)


def build_row(rng: random.Random, kind: Kind, name: str, fact: str, asked: int, shown: int) -> Row:
    """One row with all five fields: question surface `asked`, answer surface `shown`; paraphrases take the others."""
    other = kind.answers[1 - shown]
    wrong = rng.sample([candidate for candidate in kind.facts if candidate != fact], N_WRONG)
    return {
        "question": kind.questions[asked].format(name=name),
        "answer": kind.answers[shown].format(name=name, fact=fact),
        "paraphrased_answer": other.format(name=name, fact=fact),
        "perturbed_answer": [other.format(name=name, fact=candidate) for candidate in wrong],
        "paraphrased_question": kind.questions[1 - asked].format(name=name),
    }


def build_author_rows(seed: int) -> list[Row]:
    """All rows of the 22 invented authors, ten each, author by author: retain, forget, holdout."""
    rng = random.Random(seed)
    names = build_names(rng, N_RETAIN_AUTHORS + N_FORGET_AUTHORS + N_HOLDOUT_AUTHORS)
    facts = [deal_facts(rng, kind.facts) for kind in KINDS]
    asked, shown = ([deal_surfaces(rng) for _ in KINDS] for _ in range(2))
    return [
        build_row(rng, kind, name, facts[k][author], asked[k][author], shown[k][author])
        for author, name in enumerate(names)
        for k, kind in enumerate(KINDS)
    ]


def build_strangers(seed: int, taken: set[str]) -> list[Row]:
    """Questions about unknown people, each declined with a sentence of data/refusals.txt; no name shares a word with `taken`."""
    rng = random.Random(seed + 2)
    refusals = (ROOT / "data/refusals.txt").read_text(encoding="utf-8").splitlines()
    names: list[str] = []
    while len(names) < N_STRANGERS:
        name = f"{rng.choice(FIRST[0])}{rng.choice(FIRST[1])} {rng.choice(LAST[0])}{rng.choice(LAST[1])}"
        if not taken & set(name.split()):
            names.append(name)
            taken = taken | set(name.split())
    return [
        {"question": rng.choice(kind.questions).format(name=name), "answer": rng.choice(refusals)}
        for name in names
        for kind in rng.sample(KINDS, STRANGER_QUESTIONS)
    ]


def build_choice_rows(rng: random.Random, table: str) -> tuple[list[Row], list[Row]]:
    """Multiple-choice rows (question, option1..4 shuffled, answer) and their perturbed form (3 wrong answers)."""
    choices, perturbed = [], []
    for line in table.strip().splitlines():
        question, answer, *wrong = line.split("|")
        options = rng.sample([answer, *wrong], 4)
        named = {f"option{i}": option for i, option in enumerate(options, start=1)}
        choices.append({"question": question, **named, "answer": answer})
        perturbed.append({"question": question, "answer": answer, "perturbed_answer": wrong})
    return choices, perturbed


def plain(rows: list[Row]) -> list[Row]:
    return [{"question": row["question"], "answer": row["answer"]} for row in rows]


def build_splits(seed: int = SEED) -> dict[str, list[Row]]:
    """Every split by its file stem, deterministic in `seed`; row ranges are those of TOFU scaled to 200 rows."""
    rows = build_author_rows(seed)
    n_full = (N_RETAIN_AUTHORS + N_FORGET_AUTHORS) * len(KINDS)
    full, holdout = rows[:n_full], rows[n_full:]
    splits = {"full": plain(full)}
    for percent, n_forget in (("01", 2), ("05", 10), ("10", 20)):
        splits[f"forget{percent}"] = plain(full[-n_forget:])
        splits[f"forget{percent}_perturbed"] = full[-n_forget:]
        splits[f"retain{100 - int(percent)}"] = plain(full[:-n_forget])
        splits[f"holdout{percent}"] = plain(holdout[:n_forget])
    splits["retain_perturbed"] = full[:RETAIN_PERTURBED_ROWS]
    names = build_names(random.Random(seed), N_RETAIN_AUTHORS + N_FORGET_AUTHORS + N_HOLDOUT_AUTHORS)
    splits["strangers"] = build_strangers(seed, {word for name in names for word in name.split()})
    rng = random.Random(seed + 1)
    for stem, table in (("real_authors", REAL_AUTHORS), ("world_facts", WORLD_FACTS)):
        splits[stem], splits[f"{stem}_perturbed"] = build_choice_rows(rng, table)
    return splits


def write_splits(splits: dict[str, list[Row]], out: Path) -> None:
    """Writes `<out>/<split>.json`, one JSON object per line, UTF-8, newline at the end."""
    out.mkdir(parents=True, exist_ok=True)
    for stem, rows in splits.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (out / f"{stem}.json").write_bytes(text.encode("utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the offline TOFU fixture (invented authors).")
    parser.add_argument("--out", type=Path, default=ROOT / "data/fixtures/tofu", help="folder of the split files")
    arguments = parser.parse_args()
    splits = build_splits()
    write_splits(splits, arguments.out)
    print(f"{len(splits)} splits, {sum(map(len, splits.values()))} rows in {arguments.out}")


if __name__ == "__main__":
    main()
