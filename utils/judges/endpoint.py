"""A client for chat models behind an OpenAI-compatible endpoint: concurrent, patient, with a cache on disk and a limit on cost.

    endpoint = Endpoint("http://localhost:8000/v1", "some-model", key_variable=None)
    for number, reply in endpoint.replies([Ask("Be brief.", "Who wrote Hamlet?")]):
        ...

Each reply is cached under a hash of what was asked, so that an interrupted or repeated run pays for nothing twice.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from utils.checks import not_negative, positive, require, whole
from utils.secrets import struck

log = logging.getLogger(__name__)

BUSY = (408, 409, 425, 429, 500, 502, 503, 504)  # worth asking again
LONGEST_WAIT = 60.0  # seconds between two tries
MESSAGE_TOKENS = 16  # what a chat format may add to a message


class EndpointError(ValueError):
    """The endpoint cannot be used as asked; the message says why and what to do."""


class CostCapReached(EndpointError):
    """Asking on could cost more than allowed."""


@dataclass(frozen=True)
class Ask:
    """What a chat model is asked. attempt: asking the same thing again (a reply was of no use) is a higher attempt."""

    system: str
    user: str
    attempt: int = 1

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "system", "content": self.system}, {"role": "user", "content": self.user}]

    @property
    def tokens(self) -> int:
        """About how many tokens are read: four bytes each, as in English."""
        return -(-self._bytes // 4) + 2 * MESSAGE_TOKENS

    @property
    def most_tokens(self) -> int:
        """No vocabulary of bytes reads more."""
        return self._bytes + 2 * MESSAGE_TOKENS

    @property
    def _bytes(self) -> int:
        return len((self.system + self.user).encode())


@dataclass(frozen=True)
class Reply:
    """What a chat model said. cut: it ended at the limit of tokens. cached: it came from disk and cost nothing."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    cut: bool = False
    cached: bool = False


@dataclass(frozen=True)
class Prices:
    """Money per million tokens read and written, in any currency; the limit on cost is in the same."""

    prompt: float
    completion: float

    def cost(self, prompt_tokens: float, completion_tokens: float) -> float:
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / 1e6


class Ledger:
    """What has been spent. What a request may cost at most is set aside first, so `limit` is kept with many in flight."""

    def __init__(self, limit: float | None):
        self.limit, self.spent = limit, 0.0
        self._held, self._holders = 0.0, 0
        self._changed = threading.Condition()

    def hold(self, most: float) -> None:
        """Waits until `most` can be set aside. Raises CostCapReached if it cannot."""
        with self._changed:
            while self.limit is not None and self.spent + self._held + most > self.limit:
                if not self._holders:
                    raise CostCapReached(
                        f"max_cost={self.limit:g}: {self.spent:.4g} has been spent and the next reply may cost {most:.4g}; "
                        "raise it and run again, nothing that is finished is asked again"
                    )
                self._changed.wait()
            self._held += most
            self._holders += 1

    def settle(self, most: float, cost: float) -> None:
        with self._changed:
            self._holders -= 1
            self._held = self._held - most if self._holders else 0.0  # no rounding piles up
            self.spent += cost
            self._changed.notify_all()


class Cache:
    """Replies on disk, one JSON object a line. Lines that are damaged do not count: that is asked again."""

    def __init__(self, path: Path | None):
        self.path, self.skipped = path, 0
        self._lock = threading.Lock()
        self._replies: dict[str, Reply] = {}
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_bytes().decode("utf-8", errors="replace") if path.exists() else ""
        for line in filter(str.strip, text.split("\n")):
            try:
                record = json.loads(line)
                key = record.pop("key")
                known = Reply(**record, cached=True)
                if not isinstance(known.text, str):
                    raise TypeError
                self._replies[key] = known
            except (ValueError, TypeError, KeyError, AttributeError):
                self.skipped += 1
        if text and not text.endswith("\n"):  # a line that was cut off must not swallow the next one
            with path.open("a", encoding="utf-8") as file:
                file.write("\n")
        if self.skipped:
            log.warning("%s: %d damaged lines are skipped; what they held is asked again", path, self.skipped)

    def get(self, key: str) -> Reply | None:
        return self._replies.get(key)

    def put(self, key: str, reply: Reply) -> None:
        if self.path is None:
            return
        record = {name: value for name, value in asdict(reply).items() if name != "cached"}
        with self._lock, self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, **record}) + "\n")


def check_url(key: str, url: object) -> None:
    """Raises ValueError for what is no address of an endpoint, and for one that holds a password or a key."""
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        fits = parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, half a bracket
        fits = False
    require(fits, key, struck(str(url)), "a URL such as https://HOST/v1")
    if parts.username is not None or parts.query or parts.fragment:
        raise EndpointError(
            f"{key}={struck(str(url))}: leave password, ? and # out; the key belongs in the environment variable that "
            "key_variable names"
        )


@dataclass
class Endpoint:
    """One chat model behind `url`/chat/completions.

    key_variable: environment variable that holds the API key; None for servers that want none. temperature, max_tokens: of each
    reply. workers: requests at a time. timeout: seconds for one reply. tries: of one request, if the endpoint is busy or silent.
    pause: seconds before the second try, doubled for each further one (an endpoint may ask for a longer one); at most a minute.
    prices, max_cost: stops before more than max_cost can have been spent. A reply that never came counts in full.
    cache: JSON-lines file of replies. Raises ValueError for settings that cannot work, and for a missing key.
    """

    url: str
    model: str
    key_variable: str | None = "OPENAI_API_KEY"
    temperature: float = 0.9
    max_tokens: int = 512
    workers: int = 4
    timeout: float = 120.0
    tries: int = 5
    pause: float = 1.0
    prices: Prices | None = None
    max_cost: float | None = None
    cache: Path | None = None
    ledger: Ledger = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_url("endpoint", self.url)
        for key, value in {"workers": self.workers, "tries": self.tries, "max_tokens": self.max_tokens}.items():
            whole(key, value, 1)
        positive("timeout", self.timeout)
        if self.max_cost is not None:
            not_negative(max_cost=self.max_cost)
        if self.max_cost is not None and self.prices is None:
            raise EndpointError(f"max_cost={self.max_cost:g}: a limit on cost needs the prices of tokens read and written")
        self._headers = {"Content-Type": "application/json", "User-Agent": "lethe"}
        if self.key_variable is not None:
            key = os.environ.get(self.key_variable, "").strip()
            if not key:
                raise EndpointError(f"the environment variable {self.key_variable} is empty: put the API key there")
            self._headers["Authorization"] = f"Bearer {key}"
        self.ledger = Ledger(self.max_cost)
        self._replies = Cache(self.cache)
        self._opener = build_opener(_NoRedirect)

    def replies(self, asks: Sequence[Ask]) -> Iterator[tuple[int, Reply]]:
        """(place in `asks`, reply) pairs as they arrive. Raises EndpointError after those that were under way have been given."""
        pool = ThreadPoolExecutor(self.workers)
        futures: dict[Future[Reply], int] = {pool.submit(self.reply, ask): place for place, ask in enumerate(asks)}
        failure: BaseException | None = None
        try:
            for future in as_completed(futures):
                if future.cancelled():
                    continue
                error = future.exception()
                if error is None:
                    yield futures[future], future.result()
                elif failure is None:
                    failure = error
                    for other in futures:
                        other.cancel()
        finally:  # also if the caller stops listening: nothing more is asked
            pool.shutdown(cancel_futures=True)
        if failure is not None:
            raise failure

    def reply(self, ask: Ask) -> Reply:
        """One reply, from the cache if it is there. Raises EndpointError."""
        body = {"model": self.model, "messages": ask.messages, "temperature": self.temperature, "max_tokens": self.max_tokens}
        asked = json.dumps([self.url.rstrip("/"), body, ask.attempt], sort_keys=True)
        key = hashlib.sha256(asked.encode()).hexdigest()
        known = self._replies.get(key)
        if known is not None:
            return known
        reply = self._ask_patiently(json.dumps(body).encode(), self._cost(ask.most_tokens, self.max_tokens))
        self._replies.put(key, reply)
        return reply

    def _ask_patiently(self, body: bytes, most: float) -> Reply:
        for tried in range(1, self.tries + 1):
            self.ledger.hold(most)
            cost = most  # what is sent may be answered, and charged, even if the answer is lost
            try:
                reply = self._ask(body)
                if reply.prompt_tokens:  # some servers do not say
                    cost = self._cost(reply.prompt_tokens, reply.completion_tokens)
                return reply
            except HTTPError as error:
                cost, problem, wait = 0.0, _refusal(error), _wanted_wait(error.headers)
                if error.code not in BUSY:
                    raise EndpointError(f"{self.url} refuses the request: {problem}{self._advice(error.code)}") from error
            except URLError as error:
                cost, problem, wait = 0.0, str(error.reason), 0.0
            except (OSError, HTTPException) as error:
                problem, wait = str(error) or type(error).__name__, 0.0
            finally:
                self.ledger.settle(most, cost)
            if tried < self.tries:
                time.sleep(min(LONGEST_WAIT, max(wait, self.pause * 2 ** (tried - 1))))
        raise EndpointError(f"{self.url} gave no reply in {self.tries} tries, the last time: {problem}; run again later")

    def _ask(self, body: bytes) -> Reply:
        request = Request(self.url.rstrip("/") + "/chat/completions", data=body, headers=self._headers, method="POST")
        with self._opener.open(request, timeout=self.timeout) as response:
            content = response.read()
        try:
            answer = json.loads(content)
            choice, usage = answer["choices"][0], answer.get("usage") or {}
            text, cut = choice["message"]["content"] or "", choice.get("finish_reason") == "length"
            return Reply(str(text), int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0)), cut)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise EndpointError(f"{self.url} answered with something other than a chat completion: {content[:120]!r}") from error

    def _cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return self.prices.cost(prompt_tokens, completion_tokens) if self.prices else 0.0

    def _advice(self, code: int) -> str:
        if code in (401, 403):
            return f"; check the key in {self.key_variable}" if self.key_variable else "; it wants an API key: name its variable"
        return "; check the URL (often it ends in /v1) and the model's name" if code in (301, 302, 307, 308, 404, 405) else ""


class _NoRedirect(HTTPRedirectHandler):
    """A request moved elsewhere would take the key along."""

    def redirect_request(self, *_) -> None:
        return None


def _refusal(error: HTTPError) -> str:
    """Status and what the server says about it, on one line."""
    try:
        said = " ".join(error.read().decode("utf-8", errors="replace").split())[:200]
    except (OSError, HTTPException):
        said = ""
    return f"HTTP {error.code} {error.reason}" + (f" ({said})" if said else "")


def _wanted_wait(headers: HTTPMessage) -> float:
    try:
        return float(headers.get("Retry-After", 0))
    except ValueError:  # a date: our own pause will do
        return 0.0
