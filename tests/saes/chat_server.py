"""A real HTTP server on loopback that speaks chat completions, and minds to put behind it."""

from __future__ import annotations

import json
import re
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ChatServer:
    """Answers by `mind(system, user)`; `trouble(handler, n)` may answer the n-th question otherwise and then returns True."""

    def __init__(self, mind, trouble: Callable | None = None) -> None:
        self.mind, self.trouble = mind, trouble or (lambda handler, n: False)
        self.asked: list[dict] = []
        self.headers: list[dict] = []
        self.times: list[float] = []
        self.answered = 0
        self.released, self.lock = threading.Event(), threading.Lock()

    def received(self, handler) -> None:
        request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self.lock:
            self.asked.append(request)
            self.headers.append(dict(handler.headers))
            self.times.append(time.monotonic())
            n = len(self.asked)
        if handler.path != "/v1/chat/completions":
            say(handler, 404, "no such path")
        elif not self.trouble(handler, n):
            system, user = (message["content"] for message in request["messages"])
            content = self.mind(system, user)
            with self.lock:
                self.answered += 1
            message = {"role": "assistant", "content": content}
            say(handler, 200, json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}))


def say(handler, status: int, text: str, **headers: str) -> None:
    body = text.encode()
    handler.send_response(status)
    for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def serving(mind, trouble=None, models=None):
    """`(base_url, server)`; `models(handler)` answers what is asked before the first question, where it is given."""
    chat = ChatServer(mind, trouble)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self):
            say(self, 200, '{"data": []}') if models is None else models(self)

        def do_POST(self):
            chat.received(self)

        def log_message(self, *args):
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request, client_address):
            pass  # clients that lost patience

    server = Quiet(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", chat
    finally:
        chat.released.set()
        server.shutdown()
        server.server_close()


def texts_in(part: str) -> list[str]:
    return [json.JSONDecoder().raw_decode(line)[0] for line in part.splitlines() if line.startswith('"')]


def oracle(system: str, user: str) -> str:
    """Explains by the word most often marked, and finds a described word in texts and under marks."""
    if '"explanations"' in system:
        firing = user.split("does not fire")[0]
        counted = Counter(word.strip() for text in texts_in(firing) for word in re.findall("<<(.+?)>>", text))
        found = [word for word, _ in counted.most_common(2)]
        return json.dumps({"explanations": [f"the word {word}" for word in [*found, "zzz"][:2]]})
    word = re.search(r"the word (\S+?)\"", user)[1]
    inside = f"<<{word}>>" if "marked" in system else word
    return json.dumps({"answers": [int(inside in text) for text in texts_in(user)]})


def dice(system: str, user: str) -> str:
    """Valid answers that know nothing."""
    state = zlib.crc32(user.encode())
    if '"explanations"' in system:
        return json.dumps({"explanations": [f"guess {state}", f"guess {state + 1}"]})
    bits = [zlib.crc32(f"{text}{user}".encode()) >> 7 & 1 for text in texts_in(user)]
    return f"<think>{{hm}}</think>\n```json\n{json.dumps({'answers': bits})}\n```"
