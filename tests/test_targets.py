"""Targets: files of results, HTTP endpoints, ONNX files, functions by name."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from minilm_np import SentenceTransformer
from minilm_np.cli import main
from minilm_np.crosscheck import CannotCompareError, crosscheck, probe_texts
from minilm_np.crosscheck.truth import batches, truth
from minilm_np.targets import http_endpoint, load_function, onnx_file, open_target, read_dump

pytestmark = pytest.mark.usefixtures("weights_folder")  # the float64 reference is that of the default model


# --- functions


def test_function_is_loaded_by_name() -> None:
    assert load_function("json:dumps") is json.dumps
    assert load_function("json:JSONEncoder.encode").__qualname__ == "JSONEncoder.encode"
    target = open_target("json:dumps")
    assert (target.name, target.kind, target.encodes) == ("json:dumps", "function", True)
    assert target.encode(["a"]) == '["a"]'


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("json", "json: expected package.module:function"),
        ("json:nothing", "json:nothing: AttributeError"),
        ("no_module_of_this_name:encode", "ModuleNotFoundError"),
        ("sys:path", "sys:path: expected a function of a list of str, got list"),
    ],
)
def test_rejects_names_that_are_not_functions(name: str, message: str) -> None:
    with pytest.raises(CannotCompareError, match=message):
        load_function(name)


# --- files


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors", "json", "jsonl", "by_stage.json", "bundle"])
def test_file_of_right_results_passes(bundle: Path, tmp_path: Path, suffix: str) -> None:
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
        ("a.safetensors", b"\xff" * 20, "not a valid safetensors file"),
        ("a.json", b"{", "not a valid .json file"),
        ("a.json", b"[" * 100000, "not a valid .json file"),
        ("a.jsonl", b'{"vector": []}', "not a valid .jsonl file"),
        ("a.csv", b"1,2", ".json, .jsonl, got .csv"),
        ("a.json", b'[["x"]]', "encode: expected numbers"),
        ("a.json", b"[[1, 2]]", "expected shape (40, 384), one vector per text, got (1, 2)"),
        ("a.json", b'{"02/embeddings": [[1]]}', "embeddings: expected cases [0, 1, 3"),
        ("a.json", b'{"sentence_embedding": {"a": 1}}', "encode: expected numbers"),
    ],
)
def test_bad_file_is_an_error_of_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert main(["crosscheck", str(tmp_path / name)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and message in captured.err, captured.err


def test_keys_by_case_become_one_list_per_stage(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"1/pooled": [1], "0/pooled": [0], "5/pooled": [5], "embeddings": [[2]]}))
    assert read_dump(path) == {"embeddings": [[2]], "pooled": [[0], [1], [5]]}
    assert read_dump(path, [[0, 1], [5, 1, 0]])["pooled"] == [[5], [1], [0]]  # the set of the same size
    with pytest.raises(CannotCompareError, match=r"a\.json: pooled: expected cases \[0, 5\], got also case 1"):
        read_dump(path, [[0, 5]])
    with pytest.raises(CannotCompareError, match=r"a\.json: pooled: expected cases \[0, 1, 2\], got no case 2"):
        read_dump(path, [[0, 1, 2]])


def test_file_does_not_encode(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((2, 3)))
    target = open_target(str(tmp_path / "a.npy"))
    assert (target.kind, target.encodes, list(target.stages)) == ("file", False, ["sentence_embedding"])
    with pytest.raises(CannotCompareError, match="expected a port that encodes texts, got a file of results"):
        target.encode(["a"])


def test_pickle_is_not_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(CannotCompareError, match=r"a\.npy: not a valid"):
        read_dump(tmp_path / "a.npy")


def test_damaged_or_enormous_archive_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", pooled=np.arange(40000.0))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 50] = b"x" * 50
    (tmp_path / "b.npz").write_bytes(data)
    with pytest.raises(CannotCompareError, match=r"b\.npz: not a valid \.npz file"):
        read_dump(tmp_path / "b.npz")
    monkeypatch.setattr("minilm_np.targets.MAX_FILE_BYTES", 300000)
    assert (tmp_path / "a.npz").stat().st_size < 300000
    with pytest.raises(CannotCompareError, match=r"a\.npz: expected at most 300000 bytes unpacked, got 320\d\d\d"):
        read_dump(tmp_path / "a.npz")
    (tmp_path / "c.json").write_text("5")
    with pytest.raises(CannotCompareError, match=r"c\.json: expected a vector for each text, got 5"):
        read_dump(tmp_path / "c.json")


# --- endpoints


class Server:
    """A local endpoint whose answer a test chooses."""

    def __init__(self, answer: Callable[[Any, Any], None]):
        outer = self
        self.answer, self.requests = answer, []  # type: ignore[var-annotated]
        self.closing = threading.Event()  # ends the answers that are slow on purpose
        self.answered = False  # whether a whole answer was sent

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(body)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client gave up, as it should
                    outer.answer(self, body)
                    outer.answered = True

            def wait(self, seconds: float) -> None:
                outer.closing.wait(seconds)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}{path}"

    def close(self) -> None:
        self.closing.set()
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


def send(handler: Any, body: bytes, content_type: str = "application/json", code: int = 200) -> None:
    handler.send_response(code)
    handler.send_header("Content-Type", content_type)
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
    send(handler, json.dumps({"data": data[::-1]}).encode())  # in reverse order: the index must be used


def test_right_endpoints_pass(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    tei = serve(lambda handler, body: send(handler, json.dumps(right_vectors(body["inputs"])).encode()))
    assert main(["crosscheck", tei.url("/embed")]) == 0
    assert [len(request["inputs"]) for request in tei.requests] == [len(batch) for batch in batches()]
    other = serve(open_ai)
    assert main(["crosscheck", other.url("/v1/embeddings"), "--model-name", "mine"]) == 0
    assert {request["model"] for request in other.requests} == {"mine"}
    assert capsys.readouterr().out.count("PASS") == 2


def hang(handler: Any, _: Any) -> None:
    handler.wait(30)


def send_slowly(handler: Any, data: bytes) -> None:
    """Send a byte every 0.05 s, which is more often than a socket's timeout of 0.5 s, for 30 s in all."""
    for byte in data.ljust(600, b"a"):
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        handler.wait(0.05)


def send_body_slowly(code: int) -> Callable[[Any, Any], None]:
    def answer(handler: Any, _: Any) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        send_slowly(handler, b"[")

    return answer


def send_headers_slowly(handler: Any, _: Any) -> None:
    send_slowly(handler, b"HTTP/1.1 200 OK\r\nX-Long: ")


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


def answering(text: str, content_type: str = "application/json", code: int = 200) -> Callable[[Any, Any], None]:
    return lambda handler, body: send(handler, text.encode(), content_type, code)


@pytest.mark.parametrize("answer", [hang, send_body_slowly(200), send_headers_slowly, send_body_slowly(500)])
def test_timeout_is_for_the_complete_answer(serve: Any, answer: Callable[[Any, Any], None]) -> None:
    server = serve(answer)
    with pytest.raises(CannotCompareError) as caught:
        crosscheck(http_endpoint(server.url("/embed"), timeout=0.5))
    assert str(caught.value) == f"{server.url('/embed')}: no complete answer within 0.5 s"
    assert not server.answered, "the client waited for the end of the answer"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (huge, "more than 67108864 bytes"),
        (short, "expected JSON"),
        (answering("<html>login</html>", "text/html"), "expected JSON, got text/html '<html>login</html>'"),
        (answering("no such model", code=503), "HTTP 503: no such model"),
        (answering("[" * 100000), "expected JSON"),
        (answering("[]"), "expected a list of 8 vectors, one for each text, got 0 vectors"),
        (answering(json.dumps([[0.5] * 384] * 7)), "expected a list of 8 vectors, one for each text, got 7 vectors"),
        (answering(json.dumps([["a"] * 384] * 8)), "vector 0: expected a list of numbers, got \"['a', 'a'"),
        (answering(json.dumps([[0.5] * 3, [0.5] * 4] * 4)), "expected vectors of one size, got 3 and 4 numbers"),
        (answering(json.dumps([[]] * 8)), "vector 0: expected a list of numbers, got '[]'"),
        (answering(json.dumps({"error": "x"})), "expected a list of 8 vectors, one for each text, got dict"),
    ],
)
def test_hostile_answer_is_an_error_of_one_line(serve: Any, answer: Any, message: str) -> None:
    with pytest.raises(CannotCompareError) as caught:
        crosscheck(http_endpoint(serve(answer).url("/embed")))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_endpoint_that_sends_nan_differs(serve: Any) -> None:
    for text in ("NaN", "null", "Infinity"):
        body = json.dumps([[0.5] * 384] * 7 + [["x"] + [0.5] * 383]).replace('"x"', text)
        report = crosscheck(http_endpoint(serve(answering(body)).url("/embed")))
        assert report.causes[0].name == "not-finite"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"data": [{"index": 0}] * 8}, "expected each index from 0 to 7 once"),
        ({"data": [{"index": i, "embedding": "%%"} for i in range(8)]}, "as a list or as base64 of float32"),
        ({"error": "quota"}, "expected an object with data"),
    ],
)
def test_wrong_open_ai_answer_is_an_error(serve: Any, body: Any, message: str) -> None:
    with pytest.raises(CannotCompareError, match=message):
        crosscheck(http_endpoint(serve(answering(json.dumps(body))).url("/v1/embeddings")))


def test_wrong_byte_order_of_base64_is_an_error(serve: Any) -> None:
    server = serve(lambda handler, body: open_ai(handler, body, ">384f"))
    with pytest.raises(CannotCompareError, match="'float' and 'base64' give different vectors"):
        crosscheck(http_endpoint(server.url("/v1/embeddings")))


def test_unreachable_server_is_an_error() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(CannotCompareError, match="refused"):
        crosscheck(http_endpoint(f"http://127.0.0.1:{port}/embed", timeout=5))
    with pytest.raises(CannotCompareError, match="expected http://host"):
        http_endpoint("http:///embed")


# --- ONNX files; tests/crosscheck/test_crosscheck_parity.py has real ones


ONNX_TEXTS = ["two words here", "one"]


def onnx_runtime(model: SentenceTransformer, inputs: list[str], outputs: list[str]) -> SimpleNamespace:
    """Return a stand-in for the onnxruntime module whose session returns the model's last hidden state, padded."""

    class InferenceSession:
        def __init__(self, path: str, providers: list[str]):
            assert providers == ["CPUExecutionProvider"]

        def get_inputs(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(name=name) for name in inputs]

        def get_outputs(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(name=name) for name in outputs]

        def run(self, names: list[str], arrays: dict[str, Any]) -> list[Any]:
            assert list(arrays) == inputs and names == ["last_hidden_state"]
            mask = arrays["attention_mask"].astype(bool)
            assert [row.sum() for row in mask] == [5, 3] and (arrays["input_ids"][~mask] == 0).all()
            hidden_states = np.full((*mask.shape, 384), 1e6, np.float32)  # padding must not reach the mean
            hidden_states[mask] = np.concatenate(model.encode(ONNX_TEXTS, output_value="token_embeddings"))
            return [hidden_states]

    return SimpleNamespace(InferenceSession=InferenceSession)


def test_onnx_file_is_pooled_without_computing_the_float64_reference(
    model: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = ["input_ids", "attention_mask", "token_type_ids"]
    monkeypatch.setitem(sys.modules, "onnxruntime", onnx_runtime(model, inputs, ["pooler_output", "last_hidden_state"]))
    (tmp_path / "a.onnx").touch()
    truth.cache_clear()
    target = open_target(str(tmp_path / "a.onnx"))
    assert (target.kind, target.encodes) == ("onnx", True)
    assert np.abs(target.encode(ONNX_TEXTS) - model.encode(ONNX_TEXTS)).max() < 1e-6
    assert truth.cache_info().currsize == 0


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (["input_ids", "images"], ["a"], "expected the inputs input_ids, .*, got input_ids, images"),
        (["attention_mask"], ["a"], "expected the inputs input_ids, .*, got attention_mask"),
        (["input_ids"], ["pooler_output"], "expected one of the outputs sentence_embedding, .*, got pooler_output"),
        (["input_ids"], ["a", "b"], "expected one of the outputs sentence_embedding, .*, got a, b"),
    ],
)
def test_onnx_file_with_unknown_inputs_or_outputs_is_an_error(
    model: SentenceTransformer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    inputs: list[str],
    outputs: list[str],
    message: str,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", onnx_runtime(model, inputs, outputs))
    (tmp_path / "a.onnx").touch()
    with pytest.raises(CannotCompareError, match=message):
        onnx_file(tmp_path / "a.onnx")


def test_onnx_file_needs_onnxruntime_and_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace())
    with pytest.raises(CannotCompareError, match=r"a\.onnx: no such file"):
        onnx_file(tmp_path / "a.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(CannotCompareError, match=r"a\.onnx: needs onnxruntime, which is not installed"):
        onnx_file(tmp_path / "a.onnx")


def test_former_import_path_still_works(tmp_path: Path) -> None:
    from minilm_np.crosscheck import backends, compare

    assert (backends.http_endpoint, backends.load_function, backends.onnx_file) == (
        http_endpoint,
        load_function,
        onnx_file,
    )
    (tmp_path / "a.json").write_text('{"02/embeddings": [[1]]}')
    with pytest.raises(CannotCompareError, match=r"embeddings: expected cases \[0, 1, 3.*\], got no case 0"):
        backends.read_dump(tmp_path / "a.json")
    assert compare.CannotCompareError is CannotCompareError and issubclass(CannotCompareError, ValueError)
