#!/usr/bin/env python3
"""A stand-in for tritonserver, to test the supervisor without models: its endpoints, and what can go wrong with them.

FAKE_TRITON says what it does otherwise than well; words with commas between them:

    dies            ends with status 3 once it has answered an inference
    hears_nothing   ignores SIGTERM
    never_answers   takes inferences and does not answer them
    loads_at_first  refuses the first inference, since the model is being loaded
    overloaded      refuses every inference, since others are served
    refuses         answers every inference with an internal error
    verbose         writes a megabyte of log before it is ready
"""

import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BEHAVIOUR = set(os.environ.get("FAKE_TRITON", "").split(","))
LOG_LINE = "I1124 a line of a log\n"
inferences: list[bytes] = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer(200, b"")

    def do_POST(self) -> None:
        inferences.append(self.rfile.read(int(self.headers["Content-Length"])))
        print(f"inference {len(inferences)} of {self.path}", flush=True)
        if "never_answers" in BEHAVIOUR:
            time.sleep(600)
        if "loads_at_first" in BEHAVIOUR and len(inferences) == 1:
            self._answer(503, b'{"error":"[loading] try again later"}')
        elif "overloaded" in BEHAVIOUR:
            self._answer(503, b'{"error":"[overloaded] try again later"}')
        elif "refuses" in BEHAVIOUR:
            self._answer(500, b'{"error":"[internal] something broke"}')
        else:
            self._answer(200, b"{}")
        if "dies" in BEHAVIOUR:
            threading.Timer(0.1, os._exit, (3,)).start()

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    options = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:] if "=" in word)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if "hears_nothing" in BEHAVIOUR else lambda *_: os._exit(0))
    print(f"heartbeats in {os.environ.get('HEARTBEAT_DIR')}", flush=True)
    if "verbose" in BEHAVIOUR:
        sys.stdout.write(LOG_LINE * (1_000_000 // len(LOG_LINE)))
        sys.stdout.flush()
    ThreadingHTTPServer(("127.0.0.1", int(options["http-port"])), Handler).serve_forever()


if __name__ == "__main__":
    main()
