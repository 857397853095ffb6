"""A local server given to `minilm-np crosscheck`: hostile bodies, headers, redirects and paces.

No answer with wrong vectors may pass, and no other host may get the API key.
"""

from __future__ import annotations

import base64
import json
import socketserver
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from fuzz import checks, mutations
from fuzz.case import Case
from hypothesis import strategies as st

from minilm_np.crosscheck.probes import TEXTS
from minilm_np.crosscheck.truth import truth

Draw = st.DrawFn
SECONDS = 0.4  # --timeout of a server that may not answer
SLOW = 1.0  # seconds that a slow server takes for an answer
BODIES = ["right"] * 6 + ["wrong", "fewer", "more", "swapped", "json", "json", "raw", "bomb"]
RAW = [
    "", "null", "[]", "{}", "<html>busy</html>", "[[NaN]]", "[[1e999]]", '{"data": []}', '{"error": "x"}', "\x00",
    '[["a"]]', "[" * 100_000,
]  # fmt: skip
LINES = ["200 OK"] * 12 + [
    "201 Created", "204 No Content", "100 Continue", "401 Unauthorized", "429 Slow down", "500 \xe9", "0", "999 x",
    "x",
]  # fmt: skip
REDIRECTS = ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"]
PLACES = [
    *["http://localhost:{other}/embed"] * 3, *["http://localhost:{other}/v1/embeddings"] * 3,
    "http://127.0.0.1:{port}{path}", "//localhost:{other}/", "https://localhost:{other}/", "ftp://localhost:{other}/x",
    "file:///etc/passwd", "data:,[]", "", "http://", "http://[::1", "x\x01", "http://user:pass@localhost:{other}/",
    "http://localhost:99999/",
]  # fmt: skip
HEADERS = [
    "Content-Type: text/html", "Content-Type: application/json; charset=utf-7", "Content-Type: \xe9",
    "Content-Encoding: gzip", "Transfer-Encoding: chunked", "X: " + "y" * 70_000, "no colon", "Set-Cookie: a=b",
    "Content-Length: -1", "Content-Length: 1e3", "Content-Length: 99999999999", "Content-Length: 3",
    "Content-Length: " + "9" * 5000,
]  # fmt: skip


@st.composite
def cases(draw: Draw) -> Case:
    answer = {
        "line": draw(st.sampled_from(LINES)),
        "headers": draw(st.lists(st.sampled_from(HEADERS), max_size=1)) if mutations.seldom(draw, 3) else [],
        "body": draw(st.sampled_from(BODIES)),
        "pace": draw(st.sampled_from(["now"] * 20 + ["slow", "drip", "cut", "reset"])),
        "first": draw(st.sampled_from([0, 0, 2])),  # the request from which on the answer is hostile
    }
    if mutations.seldom(draw, 5):
        answer["line"] = draw(st.sampled_from(REDIRECTS))
        answer["headers"] = ["Location: " + draw(st.sampled_from(PLACES))]
    if answer["body"] == "raw":
        answer["text"] = draw(st.sampled_from(RAW))
    elif answer["body"] == "bomb":
        answer["text"] = (
            draw(mutations.json_bombs()).decode() if mutations.seldom(draw, 2) else "[" + "[]," * 1000 + "[]]"
        )
    elif answer["body"] == "json":
        vector = [0.1, 0.2]
        answer["vector"] = draw(
            mutations.json_mutations(draw(st.sampled_from([vector, "AAAAAA==", {"index": 0, "embedding": vector}])))
        )
    return Case("endpoints", {}, {"path": draw(st.sampled_from(["/embed", "/v1/embeddings"])), **answer})


# --- the server --------------------------------------------------------------------------------


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, settings: dict[str, Any]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.settings = settings
        self.requests = 0
        self.heads: list[bytes] = []  # of all requests
        self.other = 0  # the port of the other host
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # the client has closed the connection


class Handler(socketserver.StreamRequestHandler):
    server: Server

    def handle(self) -> None:
        head = b""
        while (line := self.rfile.readline(65536)).strip():
            head += line
        self.server.heads.append(head)
        length = next((int(x[15:]) for x in head.splitlines() if x.lower().startswith(b"content-length:")), 0)
        request = json.loads(self.rfile.read(length) or b"null")
        settings, number = self.server.settings, self.server.requests
        self.server.requests += 1
        if request is None:  # a redirect that was followed with GET
            request = {"inputs": []}
        if number < settings["first"]:
            settings = {"line": "200 OK", "headers": [], "body": "right", "pace": "now"}
        body = make_body(settings, request)
        names = {"other": self.server.other, "port": self.server.port, "path": settings.get("path")}
        headers = [h.format(**names) if h.startswith("Location") else h for h in settings["headers"]]
        if not any(h.startswith(("Content-Length", "Transfer-Encoding")) for h in headers):
            headers.append(f"Content-Length: {len(body)}")
        start = "\r\n".join([f"HTTP/1.1 {settings['line']}", "Connection: close", *headers, "", ""]).encode("latin-1")
        self.send(start, body, settings["pace"])

    def send(self, start: bytes, body: bytes, pace: str) -> None:
        if pace == "reset":
            return
        if pace == "slow":
            time.sleep(SLOW)
        self.wfile.write(start)
        if pace == "cut":
            self.wfile.write(body[: len(body) // 2])
        elif pace == "drip":
            for i in range(20):
                self.wfile.write(body[i : i + 1])
                time.sleep(SLOW / 20)
        else:
            self.wfile.write(body)


def make_body(settings: dict[str, Any], request: Any) -> bytes:
    """Return the body that answers a request, in the format that it asks for."""
    kind = settings["body"]
    if kind in ("raw", "bomb"):
        return str(settings["text"]).encode()
    open_ai = "input" in request
    texts = request["input" if open_ai else "inputs"]
    vectors = [truth().embeddings[TEXTS.index(text)].astype(np.float32) for text in texts]
    if kind == "wrong" and vectors:
        vectors[0] = vectors[0] + np.float32(0.01)
    elif kind == "fewer":
        vectors = vectors[:-1]
    elif kind == "more":
        vectors = [*vectors, np.zeros(384, np.float32)]
    elif kind == "swapped":
        vectors = vectors[::-1]
    rows: list[Any] = [vector.tolist() for vector in vectors]
    if not open_ai:
        return json.dumps([*rows[1:], settings["vector"]] if kind == "json" else rows).encode()
    if request["encoding_format"] == "base64":
        rows = [base64.b64encode(vector.tobytes()).decode() for vector in vectors]
    data: list[Any] = [{"index": i, "embedding": row} for i, row in enumerate(rows)]
    if kind == "json":
        vector = settings["vector"]
        data[0] = vector if isinstance(vector, dict) else {"index": 0, "embedding": vector}
    return json.dumps({"data": data, "model": "x"}).encode()


# --- the area ----------------------------------------------------------------------------------


def run(case: Case, scratch: Path) -> str:
    settings = dict(case.settings)
    body, line = settings["body"], settings["line"]
    plain = body == "right" and line == "200 OK" and not settings["headers"] and settings["pace"] == "now"
    with (
        Server(settings) as server,
        Server({"line": "200 OK", "headers": [], "body": "right", "pace": "now", "first": 0}) as other,
    ):
        server.other = other.port
        url = f"http://127.0.0.1:{server.port}{settings['path']}"
        try:
            result = checks.command(["crosscheck", url, "--no-causes", "--timeout", str(10 if plain else SECONDS)])
        finally:
            server.shutdown()
            other.shutdown()
    outcome = checks.check_command(result, ["http://127.0.0.1", "encode, batch"])
    if b"fuzz-secret" in b"".join(other.heads):
        raise checks.FaultError("api key", f"another host got the key: {settings['line']}, {settings['headers']}")
    if result.code == 0 and body != "right" and line not in REDIRECTS:
        raise checks.FaultError(f"passed, {body}", result.out.decode()[:200])
    if plain and result.code != 0:
        raise checks.FaultError("refused, though right", f"{outcome} {result.out.decode()[:200]}")
    return f"{body} {line} {outcome}"
