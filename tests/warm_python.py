"""A Python that has imported the heavy libraries once and forks for every program that a test wants in processes of its own.

A fresh interpreter imports for seconds before it does anything, and a launcher of several adds its own. What a forked process
runs is the same program under the same variables as torchrun sets; tests of the command line itself start a real Python,
and those under -m slow the real torchrun.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[1]
# Importing computes nothing, so no threads exist when a process is forked.
IMPORTED = (
    "utils.runs.train utils.runs.score utils.runs.series transformers.models.llama.modeling_llama transformers.trainer peft"
)


class WarmPython:
    """The client's side: starts the server with the first program, ends it with this object."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self.server: subprocess.Popen | None = None

    def run(
        self, folder: Path, command: Sequence[str], processes: int, port: int, environment: Mapping[str, str], said: Path
    ) -> int:
        """The exit code of `command` (a script with its arguments, -m module or -c code) in `folder`.

        said: folder for the files `out` and `err`, all that the processes print. Of several the first failure counts, and ends
        the others.
        """
        if self.server is None or self.server.poll() is not None:
            command_line = [sys.executable, str(Path(__file__))]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self.server = subprocess.Popen(command_line, cwd=ROOT, env=self.environment, text=True, **pipes)
        request = {"folder": str(folder), "command": list(command), "processes": processes, "port": port, "said": str(said)}
        request["environment"] = dict(environment)
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def close(self) -> None:
        if self.server is not None:
            self.server.stdin.close()
            self.server.wait()


def serve(limit: int = 300) -> dict[str, Any] | None:
    """Forks for every request until there are no more; what it returns in a forked process is to be run there.

    limit: seconds after which the processes of a request are killed.
    """
    for line in sys.stdin:
        request = json.loads(line)
        alive = set()
        for number in range(request["processes"]):
            if (pid := os.fork()) == 0:
                return {**request, "rank": number}
            alive.add(pid)
        signal.signal(signal.SIGALRM, lambda *_, alive=alive: [os.kill(pid, signal.SIGKILL) for pid in alive])
        signal.alarm(limit)
        code = 0
        while alive:
            pid, status = os.wait()
            alive.discard(pid)
            if status and not code:
                code = os.waitstatus_to_exitcode(status)
                for other in alive:
                    os.kill(other, signal.SIGTERM)
        signal.alarm(0)
        print(code, flush=True)
    return None


def become(request: Mapping[str, Any]) -> None:
    """Runs the program of a request in this process, which was forked for it."""
    signal.alarm(0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    if request["processes"] > 1:
        size, rank = str(request["processes"]), str(request["rank"])
        os.environ.update({"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size})
        os.environ.update({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(request["port"])})
    for number, name in ((0, os.devnull), (1, f"{request['said']}/out"), (2, f"{request['said']}/err")):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
    program, *words = request["command"]
    sys.path[1:1] = request["environment"].get("PYTHONPATH", "").split(os.pathsep)
    if program == "-m":
        sys.path[0], sys.argv = "", words
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    elif program == "-c":
        sys.path[0], sys.argv = "", ["-c", *words[1:]]
        exec(compile(words[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.path[0], sys.argv = str(Path(program).parent), [program, *words]
        runpy.run_path(program, run_name="__main__")


def end(code: int) -> NoReturn:
    """Ends this process as Python does, but for taking down every module, which costs more than most tests."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    for module in IMPORTED.split():
        importlib.import_module(module)
    gc.freeze()  # a collection in a forked process need not look at, and thereby copy, what was imported
    if (asked := serve()) is not None:
        try:
            become(asked)
        except SystemExit as left:
            if isinstance(left.code, str):
                print(left.code, file=sys.stderr)
            end(left.code if isinstance(left.code, int) else int(left.code is not None))
        except BaseException:
            traceback.print_exc()
            end(1)
        end(0)
