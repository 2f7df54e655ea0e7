"""A chat endpoint on this machine that answers as a test tells it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "secret-123"


def completion(text: str | None = "Marlowe wrote it.", reason: str = "stop", usage: bool = True) -> bytes:
    answer = {"choices": [{"message": {"content": text}, "finish_reason": reason}]}
    return json.dumps(answer | ({"usage": {"prompt_tokens": 10, "completion_tokens": 5}} if usage else {})).encode()


@dataclass
class Server:
    """script: request number (from 0) -> status, body and perhaps headers. The lists note what arrived."""

    url: str = ""
    script: Callable[[int], tuple] = lambda n: (200, completion())
    bodies: list[dict] = field(default_factory=list)
    headers: list[dict] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    def question(self, number: int) -> str:
        return self.bodies[number]["messages"][1]["content"]


@contextmanager
def serving(monkeypatch) -> Iterator[Server]:
    """A server that runs within the block; SOME_KEY holds the key, and no proxy stands between."""
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("SOME_KEY", KEY)
    noted, lock = Server(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(noted.bodies)
                noted.bodies.append(body)
                noted.headers.append(dict(self.headers))
                noted.paths.append(self.path)
            status, content, *more = noted.script(number)
            self.send_response(status)
            for name, value in (more[0] if more else {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.handle_error = lambda *_: None  # who stopped waiting has hung up
    noted.url = f"http://127.0.0.1:{listening.server_port}/v1"
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield noted
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
