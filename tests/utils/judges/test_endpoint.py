"""The endpoint client against a server on this machine: patience, cache, limit on cost, and what it says when it gives up."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from tests.utils.judges.chat_server import KEY, Server, completion, serving
from utils.judges.endpoint import Ask, CostCapReached, Endpoint, EndpointError, Ledger, Prices, Reply

PRICES = Prices(prompt=1e6, completion=1e6)  # a token costs 1


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    with serving(monkeypatch) as running:
        yield running


def endpoint(server: Server, **options) -> Endpoint:
    return Endpoint(server.url, "small", **{"key_variable": "SOME_KEY", "pause": 0.001, "timeout": 5.0, **options})


def asks(count: int) -> list[Ask]:
    return [Ask("Be brief.", f"Question {n}?") for n in range(count)]


def test_request_and_reply(server):
    server.script = lambda n: (200, completion("One.\nTwo.", "length"))
    reply = endpoint(server, temperature=0.5, max_tokens=20).reply(Ask("Be brief.", "Who?"))
    assert reply == Reply("One.\nTwo.", 10, 5, cut=True)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}]
    assert server.bodies == [{"model": "small", "messages": messages, "temperature": 0.5, "max_tokens": 20}]
    assert server.paths == ["/v1/chat/completions"] and server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_a_server_without_keys_gets_none(server):
    endpoint(server, key_variable=None).reply(Ask("", "Who?"))
    assert "Authorization" not in server.headers[0]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_busy_endpoints_are_asked_again(server, status):
    server.script = lambda n: (200, completion()) if n == 2 else (status, b"busy")
    assert endpoint(server).reply(Ask("", "Who?")).text == "Marlowe wrote it."
    assert len(server.bodies) == 3


def test_pauses_double_and_an_endpoint_may_ask_for_longer(server, monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    headers = [{}, {}, {"Retry-After": "7"}, {"Retry-After": "3600"}]
    server.script = lambda n: (200, completion()) if n == 4 else (429, b"", headers[n])
    endpoint(server, pause=0.5).reply(Ask("", "Who?"))
    assert pauses == [0.5, 1.0, 7.0, 60.0]


def test_an_endpoint_that_stays_busy_is_given_up(server):
    server.script = lambda n: (503, b"overloaded,\n come back")
    with pytest.raises(EndpointError, match=r"gave no reply in 3 tries, the last time: HTTP 503 .*overloaded, come back"):
        endpoint(server, tries=3).reply(Ask("", "Who?"))
    assert len(server.bodies) == 3


def test_a_silent_endpoint_is_asked_again(server):
    def script(n: int) -> tuple:
        time.sleep(0.5 if n == 0 else 0.0)
        return 200, completion()

    server.script = script
    slow = endpoint(server, timeout=0.1, prices=PRICES, max_tokens=20)
    assert slow.reply(Ask("", "Who?")).text == "Marlowe wrote it."
    most = Ask("", "Who?").most_tokens + 20
    assert slow.ledger.spent == most + 15  # the lost reply may have been charged


def test_nobody_listening(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(EndpointError, match="gave no reply in 2 tries, the last time: .*refused"):
        Endpoint("http://127.0.0.1:9/v1", "small", key_variable=None, tries=2, pause=0.001).reply(Ask("", "Who?"))


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "refuses the request: HTTP 401 Unauthorized .no such key.; check the key in SOME_KEY"),
        (404, "HTTP 404 Not Found .no such key.; check the URL"),
        (307, "HTTP 307 Temporary Redirect .no such key.; check the URL"),
        (400, r"HTTP 400 Bad Request \(no such key\)$"),
    ],
)
def test_refusals_are_not_asked_again_and_name_the_remedy(server, status, said):
    server.script = lambda n: (status, b"no such key", {"Location": "/elsewhere"})
    with pytest.raises(EndpointError, match=said) as error:
        endpoint(server).reply(Ask("", "Who?"))
    assert len(server.bodies) == 1 and KEY not in str(error.value)


@pytest.mark.parametrize("content", [b"<html>", b"{}", b'{"choices": []}', b"[1]"])
def test_what_is_no_chat_completion(server, content):
    server.script = lambda n: (200, content)
    with pytest.raises(EndpointError, match="something other than a chat completion"):
        endpoint(server).reply(Ask("", "Who?"))


def test_a_reply_without_content_is_empty(server):
    server.script = lambda n: (200, completion(None, usage=False))
    assert endpoint(server).reply(Ask("", "Who?")) == Reply("", 0, 0)


def test_many_at_a_time_each_in_its_place(server):
    together = threading.Barrier(4, timeout=5)

    def script(n: int) -> tuple:
        together.wait()
        return 200, completion()

    server.script = script
    found = dict(endpoint(server, workers=4).replies(asks(8)))
    assert sorted(found) == list(range(8)) and len(server.bodies) == 8


def test_replies_go_with_their_questions(server):
    def script(n: int) -> tuple:
        time.sleep(0.02 * (n % 3))
        return 200, completion(server.question(n).upper())

    server.script = script
    assert {n: reply.text for n, reply in endpoint(server).replies(asks(6))} == {n: f"QUESTION {n}?" for n in range(6)}


def test_one_failure_stops_the_rest_but_loses_nothing(server):
    server.script = lambda n: (200, completion()) if n < 2 else (400, b"bad")
    found = []
    with pytest.raises(EndpointError, match="HTTP 400"):
        for pair in endpoint(server, workers=1).replies(asks(50)):
            found.append(pair)
    assert len(found) == 2 and len(server.bodies) < 10


def test_who_stops_listening_asks_no_more(server):
    replies = endpoint(server, workers=1).replies(asks(50))
    next(replies)
    replies.close()
    assert len(server.bodies) < 10


def test_cached_replies_are_not_asked_again(server, tmp_path):
    cache = tmp_path / "folder" / "replies.jsonl"
    server.script = lambda n: (200, completion(f"réponse {n}"))
    first = dict(endpoint(server, cache=cache, workers=1).replies(asks(3)))
    again = endpoint(server, cache=cache, prices=PRICES, max_cost=0.0)
    assert {n: (r.text, r.cached) for n, r in again.replies(asks(3))} == {n: (r.text, True) for n, r in first.items()}
    assert len(server.bodies) == 3 and again.ledger.spent == 0
    assert not first[0].cached and KEY not in cache.read_text(encoding="utf-8")


@pytest.mark.parametrize("change", [{"temperature": 0.1}, {"max_tokens": 9}])
def test_another_question_or_setting_is_asked(server, tmp_path, change):
    cache = tmp_path / "replies.jsonl"
    endpoint(server, cache=cache).reply(Ask("Be brief.", "Who?"))
    for other in (Ask("Be long.", "Who?"), Ask("Be brief.", "When?"), Ask("Be brief.", "Who?", attempt=2)):
        assert not endpoint(server, cache=cache).reply(other).cached
    assert not endpoint(server, cache=cache, **change).reply(Ask("Be brief.", "Who?")).cached
    assert endpoint(server, cache=cache).reply(Ask("Be brief.", "Who?")).cached


def test_damaged_lines_are_skipped_and_asked_again(server, tmp_path, caplog):
    cache = tmp_path / "replies.jsonl"
    list(endpoint(server, cache=cache, workers=1).replies(asks(2)))
    lines = cache.read_text(encoding="utf-8").splitlines()
    cache.write_text("\n".join(["[1]", '{"key": 1}', '{"key": "k", "text": 5}', lines[0], lines[1][:-30]]), encoding="utf-8")
    again = endpoint(server, cache=cache, workers=1)
    assert [reply.cached for _, reply in sorted(again.replies(asks(2)))] == [True, False]
    assert "4 damaged lines are skipped" in caplog.text
    assert [reply.cached for _, reply in endpoint(server, cache=cache).replies(asks(2))] == [True, True]


def test_cost_is_capped_before_it_arises(server):
    """A request of 32 + 9 + 11 bytes and 8 tokens may cost 60, and costs 15: with a cap of 100 the fourth could pass it."""
    most = Ask("Be brief.", "Question 0?").most_tokens + 8
    assert most == 60
    capped = endpoint(server, prices=PRICES, max_cost=100.0, max_tokens=8, workers=4)
    found = []
    with pytest.raises(CostCapReached, match="max_cost=100: 45 has been spent and the next reply may cost 60; raise it"):
        for pair in capped.replies(asks(9)):
            found.append(pair)
    assert len(found) == len(server.bodies) == 3 and capped.ledger.spent == 45


def test_a_reply_without_usage_counts_in_full(server):
    server.script = lambda n: (200, completion(usage=False))
    careful = endpoint(server, prices=PRICES, max_tokens=8)
    careful.reply(Ask("Be brief.", "Question 0?"))
    assert careful.ledger.spent == 60


def test_errors_cost_nothing(server):
    server.script = lambda n: (200, completion()) if n == 1 else (500, b"")
    patient = endpoint(server, prices=PRICES, max_cost=100.0, max_tokens=8)
    patient.reply(Ask("Be brief.", "Question 0?"))
    assert patient.ledger.spent == 15


def test_ledger_has_nothing_left_over():
    ledger = Ledger(1.0)
    for _ in range(1000):
        ledger.hold(0.1)
        ledger.hold(0.7)
        ledger.settle(0.1, 0.0)
        ledger.settle(0.7, 0.0)
    ledger.hold(1.0)
    ledger.settle(1.0, 1.0)
    with pytest.raises(CostCapReached):
        ledger.hold(1e-9)


def test_tokens_are_estimated_and_bounded():
    ask = Ask("ab", "cdé")  # six bytes
    assert ask.tokens == 2 + 32 and ask.most_tokens == 6 + 32


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"url": "localhost:8000"}, "endpoint=localhost:8000: write a URL such as"),
        ({"url": "file:///etc/passwd"}, "endpoint=file"),
        ({"key_variable": "NO_SUCH_KEY"}, "the environment variable NO_SUCH_KEY is empty"),
        ({"max_cost": 1.0}, "max_cost=1: a limit on cost needs the prices"),
        ({"workers": 0}, "workers=0"),
    ],
)
def test_bad_settings_are_refused(options, said, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with pytest.raises(ValueError, match=said):
        Endpoint(**{"url": "http://127.0.0.1/v1", "model": "m", "key_variable": None, **options})
