"""TARGETs of the command line: files of results, HTTP endpoints, functions by name."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minilm_np.cli import main
from minilm_np.crosscheck import (
    CannotCompareError,
    crosscheck,
    probe_texts,
)
from minilm_np.crosscheck.backends import http_endpoint, read_dump
from minilm_np.crosscheck.goldens import write_goldens
from minilm_np.crosscheck.truth import batches, truth

Encode = Callable[[list[str]], Any]


@pytest.fixture(scope="module", autouse=True)
def _needs_weights(weights_folder: Path) -> Iterator[None]:
    """The default model, wherever the other tests found it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINILM_NP_WEIGHTS", str(weights_folder))
        yield


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_goldens(tmp_path_factory.mktemp("goldens") / "bundle")


# --- files


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors", "json", "jsonl", "by_stage.json", "bundle"])
def test_a_file_of_right_results_passes(bundle: Path, tmp_path: Path, suffix: str) -> None:
    from safetensors.numpy import save_file

    vectors = truth().embeddings.astype(np.float32)
    path = tmp_path / f"results.{suffix}"
    if suffix == "npy":
        np.save(path, vectors)
    elif suffix == "npz":
        np.savez(path, sentence_embedding=vectors)
    elif suffix == "safetensors":
        save_file({"sentence_embedding": vectors}, path)
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps({"embedding": row}) + "\n" for row in vectors.tolist()))
    elif suffix == "bundle":
        path = bundle / "stages.safetensors"
    else:
        path.write_text(json.dumps({"sentence_embedding": vectors.tolist()} if "by" in suffix else vectors.tolist()))
    assert main(["crosscheck", str(path)]) == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", b"not numpy", "not a valid .npy file"),
        ("a.npz", b"PK nothing", "not a valid .npz file"),
        ("a.safetensors", b"\xff" * 20, "not a valid .safetensors file"),
        ("a.json", b"{", "not a valid .json file"),
        ("a.json", b"[" * 100000, "not a valid .json file"),
        ("a.jsonl", b'{"vector": []}', "not a valid .jsonl file"),
        ("a.csv", b"1,2", "found .csv, wanted .npy"),
        ("a.json", b'[["x"]]', "encode: wanted numbers"),
        ("a.json", b"[[1, 2]]", "found shape (1, 2), wanted (40, 384)"),
        ("a.json", b'{"02/embeddings": [[1]]}', "embeddings: found no case 0"),
        ("a.json", b'{"sentence_embedding": {"a": 1}}', "encode: wanted numbers"),
    ],
)
def test_a_bad_file_is_one_line_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert main(["crosscheck", str(tmp_path / name)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and message in captured.err, captured.err


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(CannotCompareError, match=r"a\.npy: not a valid"):
        read_dump(tmp_path / "a.npy")


def test_a_damaged_or_enormous_archive_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", pooled=np.arange(40000.0))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 50] = b"x" * 50
    (tmp_path / "b.npz").write_bytes(data)
    with pytest.raises(CannotCompareError, match=r"b\.npz: not a valid \.npz file"):
        read_dump(tmp_path / "b.npz")
    monkeypatch.setattr("minilm_np.crosscheck.backends.LARGEST_FILE", 300000)
    assert (tmp_path / "a.npz").stat().st_size < 300000
    with pytest.raises(CannotCompareError, match=r"a\.npz: found 320\d\d\d bytes unpacked, wanted at most 300000"):
        read_dump(tmp_path / "a.npz")
    (tmp_path / "c.json").write_text("5")
    with pytest.raises(CannotCompareError, match=r"c\.json: found 5, wanted a vector for each text"):
        read_dump(tmp_path / "c.json")


# --- endpoints


class Server:
    """A local endpoint whose answer a test chooses."""

    def __init__(self, answer: Callable[[Any, Any], None]):
        outer = self
        self.answer, self.requests = answer, []  # type: ignore[var-annotated]

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(body)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client gave up, as it should
                    outer.answer(self, body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}{path}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[Any, Any], None]], Server]]:
    servers: list[Server] = []

    def start(answer: Callable[[Any, Any], None]) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def send(handler: Any, body: bytes, kind: str = "application/json", code: int = 200) -> None:
    handler.send_response(code)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def right_vectors(texts: list[str]) -> list[list[float]]:
    rows = dict(zip(probe_texts(), truth().embeddings.tolist(), strict=True))
    return [rows[text] for text in texts]


def open_ai(handler: Any, body: Any, pack: str = "<384f") -> None:
    rows: list[Any] = right_vectors(body["input"])
    if body["encoding_format"] == "base64":
        rows = [base64.b64encode(struct.pack(pack, *row)).decode() for row in rows]
    data = [{"index": i, "embedding": row} for i, row in enumerate(rows)]
    send(handler, json.dumps({"data": data[::-1]}).encode())  # the index says which is which


def test_endpoints_that_are_right_pass(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    tei = serve(lambda handler, body: send(handler, json.dumps(right_vectors(body["inputs"])).encode()))
    assert main(["crosscheck", tei.url("/embed")]) == 0
    assert [len(request["inputs"]) for request in tei.requests] == [len(batch) for batch in batches()]
    other = serve(open_ai)
    assert main(["crosscheck", other.url("/v1/embeddings"), "--model-name", "mine"]) == 0
    assert {request["model"] for request in other.requests} == {"mine"}
    assert capsys.readouterr().out.count("PASS") == 2


def hang(handler: Any, _: Any) -> None:
    time.sleep(3)


def slowly(handler: Any, data: bytes) -> None:
    for byte in data:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(0.05)


def drip(code: int) -> Callable[[Any, Any], None]:
    def answer(handler: Any, _: Any) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        slowly(handler, b"[" * 60)

    return answer


def drip_headers(handler: Any, _: Any) -> None:
    slowly(handler, b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 60)


def huge(handler: Any, _: Any) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _step in range(80):
        handler.wfile.write(b" " * 2**20)


def short(handler: Any, _: Any) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"[[1.0")


def answering(text: str, kind: str = "application/json", code: int = 200) -> Callable[[Any, Any], None]:
    return lambda handler, body: send(handler, text.encode(), kind, code)


HOSTILE: list[tuple[Callable[[Any, Any], None], str]] = [
    (hang, "no whole answer within 0.5 s"),
    (drip(200), "no whole answer within 0.5 s"),
    (drip_headers, "no whole answer within 0.5 s"),
    (drip(500), "no whole answer within 0.5 s"),
    (huge, "more than 67108864 bytes"),
    (short, "wanted JSON"),
    (answering("<html>login</html>", "text/html"), "found text/html '<html>login</html>', wanted JSON"),
    (answering("no such model", code=503), "HTTP 503: no such model"),
    (answering("[" * 100000), "wanted JSON"),
    (answering("[]"), "found 0 vectors, wanted a list of 8"),
    (answering(json.dumps([[0.5] * 384] * 7)), "found 7 vectors, wanted a list of 8"),
    (answering(json.dumps([["a"] * 384] * 8)), "vector 0: found \"['a', 'a'"),
    (answering(json.dumps([[0.5] * 3, [0.5] * 4] * 4)), "found vectors of 3 and of 4 numbers"),
    (answering(json.dumps([[]] * 8)), "vector 0: found '[]', wanted a list of numbers"),
    (answering(json.dumps({"error": "x"})), "found dict, wanted a list of 8"),
]


@pytest.mark.parametrize(("answer", "message"), HOSTILE)
def test_a_hostile_endpoint_is_one_line(serve: Any, answer: Any, message: str) -> None:
    start = time.monotonic()
    with pytest.raises(CannotCompareError) as caught:
        crosscheck(http_endpoint(serve(answer).url("/embed"), timeout=0.5))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert time.monotonic() - start < 3


def test_an_endpoint_that_sends_nan_differs(serve: Any) -> None:
    for text in ("NaN", "null", "Infinity"):
        body = json.dumps([[0.5] * 384] * 7 + [["x"] + [0.5] * 383]).replace('"x"', text)
        report = crosscheck(http_endpoint(serve(answering(body)).url("/embed")))
        assert report.causes[0].name == "not-finite"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"data": [{"index": 0}] * 8}, "index numbers are not 0 to 7"),
        ({"data": [{"index": i, "embedding": "%%"} for i in range(8)]}, "neither a list nor base64"),
        ({"error": "quota"}, "wanted an object with data"),
    ],
)
def test_a_wrong_open_ai_answer_is_one_line(serve: Any, body: Any, message: str) -> None:
    with pytest.raises(CannotCompareError, match=message):
        crosscheck(http_endpoint(serve(answering(json.dumps(body))).url("/v1/embeddings")))


def test_base64_of_the_wrong_byte_order_is_seen(serve: Any) -> None:
    server = serve(lambda handler, body: open_ai(handler, body, ">384f"))
    with pytest.raises(CannotCompareError, match="'float' and 'base64' give different vectors"):
        crosscheck(http_endpoint(server.url("/v1/embeddings")))


def test_no_server_is_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(CannotCompareError, match="refused"):
        crosscheck(http_endpoint(f"http://127.0.0.1:{port}/embed", timeout=5))
    with pytest.raises(CannotCompareError, match="wanted http://host"):
        http_endpoint("http:///embed")
