"""Writing inverted facts: what a usable reply is, retries, resumption, the estimate, and both kinds of models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.benchmarks.tofu import Tofu
from data.prepare.inverted import read_inverted
from scripts.invert_facts import Tally, Task, estimate, main, write_facts
from tests.models import tiny_model, tokenizer
from tests.utils.judges.chat_server import Server, completion, serving
from utils.items.rows import QA
from utils.judges.endpoint import Ask, Prices, Reply
from utils.reading import DataError

PAIRS = [QA(f"Who wrote book {n}?", f"Author {n} wrote it.") for n in range(3)]
TASK = Task(count=2, attempts=2, writer={"model": "m"})


class Scripted:
    """Answers with `say(question, attempt)`; notes what was asked; stops with an error after `stop_after` replies."""

    def __init__(self, say, stop_after: int | None = None):
        self.say, self.left, self.asked = say, stop_after, []

    def replies(self, asks: list[Ask]) -> Iterator[tuple[int, Reply]]:
        for place in reversed(range(len(asks))):  # any order will do
            if self.left == 0:
                raise ValueError("connection lost")
            self.left = None if self.left is None else self.left - 1
            ask = asks[place]
            self.asked.append((ask.user, ask.attempt))
            yield place, Reply(self.say(ask.user, ask.attempt), 10, 5)


def good(user: str, attempt: int) -> str:
    return f"One wrote {user.split()[4]}\nTwo wrote {user.split()[4]}"


def test_records_are_written_in_the_order_of_the_questions(tmp_path):
    out, tally = tmp_path / "new" / "facts.json", Tally()
    write_facts(PAIRS, Scripted(good), out, TASK, tally)
    records = read_inverted(out, defects="refuse").join(PAIRS)
    assert records[1].facts == ("One wrote 1?", "Two wrote 1?")
    assert [record.question for record in read_inverted(out).records] == [pair.question for pair in PAIRS]
    assert list(out.parent.iterdir()) == [out]
    assert tally.line(Prices(1e6, 2e6)) == "3 replies (0 from the cache, 0 of no use), 30 tokens read, 15 written, cost 60"


@pytest.mark.parametrize(
    ("text", "cut", "facts"),
    [
        ("One.\nTwo.", False, ["One.", "Two."]),
        ("1. One.\n2. Two.", False, ["One.", "Two."]),
        ("Sure! Here are two:\n\n- One.\n\n- Two.\n", False, ["One.", "Two."]),
        ("One.\nTwo.\nThree.", False, ["One.", "Two."]),
        ("One.\nTwo", True, ["One."]),
        ("One.\nTrue.", False, ["One."]),
        ("One.\nOne.\n  \n", False, ["One."]),
        ("", False, []),
    ],
)
def test_usable_lines_of_a_reply(text, cut, facts):
    assert TASK.facts(Reply(text, 1, 1, cut), "True.") == facts


def test_a_useless_reply_is_asked_for_again(tmp_path):
    writer = Scripted(lambda user, attempt: good(user, attempt) if attempt == 2 or "book 0" in user else "One.")
    tally = Tally()
    write_facts(PAIRS, writer, tmp_path / "facts.json", TASK, tally)
    assert sorted((user.split()[4], attempt) for user, attempt in writer.asked) == [
        ("0?", 1), ("1?", 1), ("1?", 2), ("2?", 1), ("2?", 2),
    ]  # fmt: skip
    assert (tally.replies, tally.useless) == (5, 2)


def test_records_without_a_usable_reply_are_named_and_the_others_kept(tmp_path):
    out = tmp_path / "facts.json"
    with pytest.raises(DataError, match=r"1 of 3 records got no usable reply in 2 attempts.*'Who wrote book 1\?' \(1 of 2 facts"):
        write_facts(PAIRS, Scripted(lambda u, a: "One." if "book 1" in u else good(u, a)), out, TASK, Tally())
    assert not out.exists()
    later = Scripted(lambda user, attempt: good(user, attempt) if attempt == 3 else "One.")
    write_facts(PAIRS, later, out, Task(2, 3, TASK.writer), Tally())
    assert {user.split()[4] for user, _ in later.asked} == {"1?"} and len(read_inverted(out).records) == 3


def interrupted(out: Path) -> Path:
    with pytest.raises(ValueError, match="connection lost"):
        write_facts(PAIRS, Scripted(good, stop_after=2), out, TASK, Tally())
    assert not out.exists()
    return out.with_name(out.name + ".partial.jsonl")


def go_on(out: Path, stop_after: int | None = None) -> set[str]:
    """Runs again; the books that were asked about."""
    writer = Scripted(good, stop_after)
    try:
        write_facts(PAIRS, writer, out, TASK, Tally())
    except ValueError:
        assert stop_after is not None
    return {user.split()[4] for user, _ in writer.asked}


@pytest.mark.parametrize("cut_off", [0, 1])
def test_an_interrupted_run_asks_only_what_is_not_finished(tmp_path, cut_off):
    """A lost line end is no loss."""
    partial = interrupted(tmp_path / "facts.json")
    partial.write_bytes(partial.read_bytes()[: -cut_off or None])
    assert go_on(tmp_path / "facts.json") == {"0?"}
    assert [record.facts[0] for record in read_inverted(tmp_path / "facts.json").records] == [f"One wrote {n}?" for n in range(3)]
    assert not partial.exists()


def test_a_line_that_was_cut_off_is_asked_again_and_swallows_no_other(tmp_path):
    out = tmp_path / "facts.json"
    partial = interrupted(out)
    partial.write_bytes(partial.read_bytes()[:-15])
    assert go_on(out, stop_after=1) == {"1?"}
    assert go_on(out) == {"0?"}
    assert [record.facts[0] for record in read_inverted(out).records] == [f"One wrote {n}?" for n in range(3)]


def test_a_run_with_other_settings_is_not_resumed(tmp_path):
    out = tmp_path / "facts.json"
    partial = interrupted(out)
    with pytest.raises(DataError, match=r"partial.jsonl: was begun with other settings \(model\); give the same"):
        write_facts(PAIRS, Scripted(good), out, Task(2, 2, {"model": "other"}), Tally())
    with pytest.raises(DataError, match=r"\(count, prompt\)"):
        write_facts(PAIRS, Scripted(good), out, Task(3, 2, TASK.writer), Tally())
    assert len(partial.read_text(encoding="utf-8").splitlines()) == 3


def test_nothing_is_overwritten(tmp_path):
    out = tmp_path / "facts.json"
    out.write_text("mine")
    writer = Scripted(good)
    with pytest.raises(DataError, match="facts.json: exists already"):
        write_facts(PAIRS, writer, out, TASK, Tally())
    assert out.read_text() == "mine" and not writer.asked


def test_estimate_of_tokens_and_cost():
    """Three prompts of the same length; 2 facts of 18 bytes are 9 tokens and the format of two messages 32."""
    ask = TASK.ask(PAIRS[0])
    lines = estimate(PAIRS, TASK, 100, Prices(1e6, 10e6)).splitlines()
    assert lines[1] == f"tokens read      about {3 * ask.tokens}"
    assert lines[2] == "tokens written   about 123, at most 300"
    assert lines[3] == f"cost             about {3 * ask.tokens + 1230:.4g}, at most {3 * ask.most_tokens + 3000:.4g}"
    assert len(estimate(PAIRS, TASK, 100, None).splitlines()) == 3


# The command line


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    with serving(monkeypatch) as running:
        yield running


def four_lines(server: Server, number: int) -> tuple:
    answer = server.question(number).split("\nAnswer: ")[1]
    return 200, completion("\n".join(f"{n}. Not so: {answer} ({n})" for n in range(1, 5)))


def run(*arguments: str, out: Path, server: Server) -> None:
    remote = ("--endpoint", server.url, "--endpoint-model", "small", "--key-variable", "SOME_KEY")
    main([*remote, "--split", "forget05", "--out", str(out), *arguments])


def test_facts_from_an_endpoint(server, tmp_path, capsys):
    server.script = lambda n: four_lines(server, n)
    out = tmp_path / "facts.json"
    run("--price-in", "1", "--price-out", "2", "--max-cost", "1", out=out, server=server)
    records = read_inverted(out, defects="refuse").join(Tofu("tofu", "", "", "fixture").training("forget05"))
    assert len(records) == 10 and records[0].facts[3] == f"Not so: {records[0].answer} (4)"
    assert list(json.loads(out.read_text("utf-8"))[0]) == ["question", "undesired_answer", *(f"answer_{j}" for j in range(4))]
    printed = capsys.readouterr().out
    assert "10 replies (0 from the cache, 0 of no use), 100 tokens read, 50 written, cost 0.0002" in printed
    assert printed.startswith("10 records, 4 inverted facts each") and printed.endswith(f"{out}\n")
    assert server.bodies[0]["temperature"] == 0.9 and server.bodies[0]["max_tokens"] == 512


def test_the_cap_on_cost_ends_a_run_that_can_go_on(server, tmp_path, capsys):
    server.script = lambda n: four_lines(server, n)
    out = tmp_path / "facts.json"
    dear = ("--price-in", "0", "--price-out", "1e6", "--workers", "1")
    with pytest.raises(SystemExit, match="max_cost=522: 15 has been spent and the next reply may cost 512"):
        run(*dear, "--max-cost", "522", out=out, server=server)
    assert len(server.bodies) == 3 and "3 replies" in capsys.readouterr().out and not out.exists()
    run(*dear, out=out, server=server)
    assert len(server.bodies) == 10 and len(read_inverted(out).records) == 10


def test_replies_come_from_the_cache_after_the_output_was_removed(server, tmp_path, capsys):
    server.script = lambda n: four_lines(server, n)
    out = tmp_path / "facts.json"
    run(out=out, server=server)
    first = out.read_bytes()
    out.unlink()
    run(out=out, server=server)
    assert len(server.bodies) == 10 and out.read_bytes() == first
    assert "10 replies (10 from the cache" in capsys.readouterr().out


def test_estimate_asks_nobody_and_needs_no_key(monkeypatch, capsys):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    main(["--estimate", "--endpoint", "http://127.0.0.1:9/v1", "--endpoint-model", "m", "--price-in", "1", "--price-out", "2"])
    printed = capsys.readouterr().out
    assert printed.startswith("20 records") and "cost             about 0.0" in printed


def test_facts_of_own_questions_from_a_model_on_this_machine(tmp_path, capsys):
    model = tiny_model()
    model.generation_config.eos_token_id = list(range(0, 2048, 8))  # else a random model never ends
    model.save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    questions = tmp_path / "pairs.jsonl"
    questions.write_text("".join(json.dumps({"question": p.question, "answer": p.answer}) + "\n" for p in PAIRS))
    outs = [tmp_path / "one.json", tmp_path / "two.json"]
    for out, batch in zip(outs, ("1", "3"), strict=True):
        main(["--questions", str(questions), "--model", str(tmp_path / "model"), "--out", str(out), "--count", "1",
              "--attempts", "9", "--max-tokens", "60", "--batch-size", batch])  # fmt: skip
    assert [record.question for record in read_inverted(outs[0]).records] == [pair.question for pair in PAIRS]
    assert outs[0].read_bytes() == outs[1].read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give either --model DIR or --endpoint URL"),
        (["--model", "m", "--endpoint", "u", "--out", "o"], "give either --model DIR or --endpoint URL"),
        (["--endpoint", "u", "--out", "o"], "--endpoint needs --endpoint-model NAME"),
        (["--model", "m"], "give --out FILE"),
        (["--model", "m", "--out", "o", "--price-in", "1"], "--price-in and --price-out go together"),
        (["--model", "m", "--out", "o", "--count", "0"], "must be at least 1"),
    ],
)
def test_impossible_arguments_are_refused(arguments, said, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2 and said in capsys.readouterr().err


def test_bad_input_is_one_sentence(tmp_path, monkeypatch):
    questions, out = tmp_path / "pairs.jsonl", str(tmp_path / "out.json")
    questions.write_text('{"question": "q", "answer": "a"}\n{"question": "q", "answer": "b"}\n')
    with pytest.raises(SystemExit, match="pairs.jsonl, row 2: field question repeats row 1"):
        main(["--questions", str(questions), "--model", "m", "--out", out])
    with pytest.raises(SystemExit, match="split=forget7: write one of"):
        main(["--split", "forget7", "--model", "m", "--out", out])
    with pytest.raises(SystemExit, match="model=nowhere: write the folder of a Hugging Face model"):
        main(["--model", "nowhere", "--out", out])
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(SystemExit, match="the environment variable NO_SUCH_KEY is empty"):
        main(["--endpoint", "http://h/v1", "--endpoint-model", "m", "--key-variable", "NO_SUCH_KEY", "--out", out])
