"""An engine with one fault, as a program of its own: ``python child.py --host H --port N --behave FAULT``.

It speaks as much HTTP as the probes need: /health, and /generate for those who know the key in ENGINE_KEY.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    behave = "ok"
    sick = Path("/nowhere")

    def do_GET(self) -> None:
        ill = self.behave == "loading" or self.sick.exists()
        self._answer(503 if ill else 200, b"{}")

    def do_POST(self) -> None:
        say("asked to generate")
        known = self.headers["Authorization"] == f"Bearer {os.environ['ENGINE_KEY']}"
        if not known:
            self._answer(401, b'{"error": "Unauthorized"}')
        elif self.behave == "dumb":
            self._answer(500, b'{"error": "out of memory"}')
        else:
            self._answer(200, b'{"content": "a"}')

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def say(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=str)
    parser.add_argument("--host", type=str)
    parser.add_argument("--port", type=int)
    parser.add_argument("--behave", type=str, default="ok")
    parser.add_argument("--note", type=str, default="")
    parser.add_argument("--sick", type=Path, default=Path("/nowhere"))
    options = parser.parse_args()
    say(f"I am {os.getpid()}, my key is {os.environ.get('ENGINE_KEY')}")
    if options.behave == "exit":
        say("error: cannot load the model", options.note)
        raise SystemExit(1)
    if options.behave == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.behave == "family":
        code = "import signal; signal.pause()"
        pids = [subprocess.Popen([sys.executable, "-c", code], start_new_session=away).pid for away in (False, True)]
        say("children", *pids)
    Handler.behave, Handler.sick = options.behave, options.sick
    ThreadingHTTPServer((options.host, options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
