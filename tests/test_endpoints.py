"""What an endpoint may not do: send the key or the texts elsewhere, show secrets, or fill the memory."""

from __future__ import annotations

import json
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from minilm_np.targets import CannotCompareError, http_endpoint
from minilm_np.targets.json_arrays import JsonArrays

KEY = "sk-the-secret-key"
VECTORS = json.dumps([[0.25, 0.5]]).encode()


class Server:
    """Answers each POST with the next of `answers`: (status, headers, body); notes the headers it gets."""

    def __init__(self, address: tuple[str, int], answers: list[tuple[int, dict[str, str], bytes]]) -> None:
        self.url = f"http://{address[0]}:{address[1]}"
        self.answers = answers
        self.requests: list[dict[str, str]] = []


@contextmanager
def serving(*answers: tuple[int, dict[str, str], bytes]) -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, headers, body = server.answers[min(len(server.requests), len(server.answers) - 1)]
            server.requests.append(dict(self.headers))
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Server(("127.0.0.1", http.server_port), list(answers))
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@pytest.mark.parametrize("code", [301, 302, 307, 308])
@pytest.mark.parametrize("path", ["/embed", "/v1/embeddings"])
def test_neither_key_nor_texts_follow_a_redirect_to_another_origin(code: int, path: str) -> None:
    with serving((200, {}, VECTORS)) as other:
        for location in (f"{other.url}/embed?token=abc", other.url.replace("127.0.0.1", "localhost")):
            with serving((code, {"Location": location}, b"")) as first:
                with pytest.raises(CannotCompareError, match=f"HTTP {code}: expected an answer or a redirect within"):
                    http_endpoint(first.url + path, key=KEY)(["a secret text"])
                assert len(first.requests) == 1
        assert not other.requests


@pytest.mark.parametrize("code", [307, 308])
def test_a_redirect_within_the_host_is_followed_with_the_key(code: int) -> None:
    with serving((code, {"Location": "/other/embed"}, b""), (200, {}, VECTORS)) as server:
        vectors = http_endpoint(server.url + "/embed", key=KEY)(["a"])
        np.testing.assert_array_equal(vectors, [[0.25, 0.5]])
        assert [request["Authorization"] for request in server.requests] == [f"Bearer {KEY}"] * 2


def test_redirects_in_a_circle_end() -> None:
    with serving((307, {"Location": "/embed"}, b"")) as server:
        with pytest.raises(CannotCompareError, match="expected at most 5 redirects"):
            http_endpoint(server.url + "/embed")(["a"])
        assert len(server.requests) == 6


@pytest.mark.parametrize(
    "answer",
    [
        (401, {}, f"invalid key {KEY}".encode()),
        (200, {}, f"<html>{KEY} query-secret".encode()),
        (200, {}, json.dumps([KEY]).encode()),
        (302, {"Location": f"http://elsewhere.invalid/{KEY}?x=query-secret"}, b""),
        (200, {"Content-Type": f"text/{KEY}"}, b"{"),
    ],
)
def test_messages_show_no_secret(answer: tuple[int, dict[str, str], bytes]) -> None:
    with serving(answer) as server, pytest.raises(CannotCompareError) as caught:
        http_endpoint(server.url + "/embed?token=query-secret", key=KEY)(["a"])
    assert KEY not in str(caught.value) and "query-secret" not in str(caught.value)


def test_an_answer_of_empty_lists_is_refused_before_it_fills_the_memory() -> None:
    body = b"[" + b"[]," * 3_000_000 + b"[]]"
    with serving((200, {}, body)) as server, pytest.raises(CannotCompareError, match=r"expected at most \d+ lists"):
        http_endpoint(server.url + "/embed")(["a"])


@pytest.mark.parametrize("row", ["[]", "[1]", "[[]]", '""', "{}", "null", "1e5"])
def test_json_is_parsed_in_bounded_memory(row: str) -> None:
    """At most 2**20 lists and strings, each of which takes up to 130 bytes; a number takes 8."""
    text = "[" + ",".join([row] * (400_000 // (len(row) + 1))) + "]"
    tracemalloc.start()
    JsonArrays().parse(text)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 140 * sum(map(text.count, '[{"')) + 20 * len(text)


def test_where_no_thread_can_be_started_the_caller_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot_start(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    with serving((200, {}, VECTORS)) as server:
        # the server has its threads; a test cannot use up those of the process
        client = http_endpoint(server.url + "/embed")
        start = threading.Thread.start
        current = threading.current_thread()
        monkeypatch.setattr(
            threading.Thread,
            "start",
            lambda self: cannot_start(self) if threading.current_thread() is current else start(self),
        )
        np.testing.assert_array_equal(client(["a"]), [[0.25, 0.5]])
