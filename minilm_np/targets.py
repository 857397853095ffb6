"""Turn a TARGET of the command line into one type, `Target`.

    package.module:function              a Python function that takes a list of str
    http://host/embed                    an endpoint like that of text-embeddings-inference
    http://host/v1/embeddings            an endpoint like OpenAI's
    model.onnx                           an exported model, run by ONNX Runtime
    .npy .npz .safetensors .json .jsonl  a file of results

`open_target` opens all of them; each other public function opens one kind. A port may hang, return HTML or send a
gigabyte: every failure raises CannotCompareError with a one-line message.
"""

from __future__ import annotations

import base64
import http.client
import importlib
import json
import queue
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from minilm_np import weights
from minilm_np.checkpoint import WeightsError, read_config, read_safetensors
from minilm_np.model import Array
from minilm_np.tokenizer import Tokenizer

MAX_FILE_BYTES = 2**30
MAX_ANSWER_BYTES = 2**26
ONNX_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
ONNX_OUTPUTS = ("sentence_embedding", "last_hidden_state", "token_embeddings")  # in order of preference
SUFFIXES = (".npy", ".npz", ".safetensors", ".json", ".jsonl")
FINAL_STAGE = "sentence_embedding"

Encode = Callable[[list[str]], Any]


class CannotCompareError(ValueError):
    """Raised when a port fails or returns something that cannot be compared."""


@dataclass(frozen=True)
class Target:
    """A port to check: either something that encodes texts, or results read from a file."""

    name: str  # the TARGET string
    kind: Literal["function", "endpoint", "onnx", "file"]  # what the string names
    encode: Encode  # the function from texts to vectors; raises CannotCompareError if the kind is "file"
    stages: Mapping[str, Any] = field(default_factory=dict)  # a file's results by stage; empty for the other kinds

    @property
    def encodes(self) -> bool:
        """Whether `encode` works; if not, `stages` has the results."""
        return self.kind != "file"


def open_target(
    name: str,
    *,
    model: str = "all-MiniLM-L6-v2",
    key: str | None = None,
    timeout: float = 30.0,
    cases: Sequence[Sequence[int]] = (),
) -> Target:
    """Return the Target that a TARGET string names.

    Parameters
    ----------
    name
        The TARGET string.
    model, key, timeout
        For HTTP endpoints, see `http_endpoint`.
    cases
        For files, see `read_dump`.

    Raises
    ------
    CannotCompareError
        If the target cannot be opened.
    """
    if name.startswith(("http://", "https://")):
        return Target(name, "endpoint", http_endpoint(name, model, key, timeout))
    path = Path(name)
    if path.suffix == ".onnx":
        return Target(name, "onnx", onnx_file(path))
    if path.suffix in SUFFIXES or path.is_file():

        def refuse(_: list[str]) -> Any:
            raise CannotCompareError(f"{name}: expected a port that encodes texts, got a file of results")

        return Target(name, "file", refuse, read_dump(path, cases))
    return Target(name, "function", load_function(name))


def load_function(name: str) -> Encode:
    """Return the function that "package.module:function" names; the current folder is searched, too.

    Raises
    ------
    CannotCompareError
        If the name has another form, the import fails, or the object is not callable.
    """
    module, colon, path = name.partition(":")
    if not colon or not module or not path or "/" in name:
        raise CannotCompareError(
            f"{name}: expected package.module:function, http://..., https://... or a file {', '.join(SUFFIXES)}, .onnx"
        )
    current_folder = str(Path.cwd())
    if current_folder not in sys.path:
        sys.path.insert(0, current_folder)
    try:
        function: Any = importlib.import_module(module)
        for part in path.split("."):
            function = getattr(function, part)
    except Exception as error:  # importing a user's module can raise anything
        raise CannotCompareError(f"{name}: {type(error).__name__}: {_one_line(error)}") from error
    if not callable(function):
        raise CannotCompareError(f"{name}: expected a function of a list of str, got {type(function).__name__}")
    encode: Encode = function
    return encode


# --- files -------------------------------------------------------------------------------------


def read_dump(path: Path, cases: Sequence[Sequence[int]] = ()) -> dict[str, Any]:
    """Return a file's results by stage; the stage of an array without a name is "sentence_embedding".

    Parameters
    ----------
    path
        .npy: one array (n, H). .npz, .safetensors: arrays by stage, or by "{case}/{stage}" as in a golden bundle.
        .json: a list of vectors, or an object of such lists by stage. .jsonl: on each line a vector, or an object with
        the key "embedding".
    cases
        The sets of case numbers that a stage with keys "{case}/{stage}" may have. The stage must have the numbers of
        the set of the same size, or of the last set if none has its size; its values become a list in the set's
        order. Without `cases`, a stage may have any case numbers.

    Raises
    ------
    CannotCompareError
        If the file cannot be read, is larger than MAX_FILE_BYTES or lacks a case.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise CannotCompareError(f"{path}: expected at most {MAX_FILE_BYTES} bytes, got {path.stat().st_size}")
        results = _read(path)
    except OSError as error:
        raise CannotCompareError(f"{path}: {error.strerror or error}") from None
    except CannotCompareError:
        raise
    except WeightsError as error:
        raise CannotCompareError(_one_line(error)) from None
    except (ValueError, TypeError, KeyError, RecursionError, RuntimeError, EOFError, zlib.error) as error:
        raise CannotCompareError(f"{path}: not a valid {path.suffix} file: {_one_line(error)}") from None
    if isinstance(results, Mapping):
        return _join_cases(path, results, cases)
    if not isinstance(results, list) and np.ndim(results) == 0:
        raise CannotCompareError(f"{path}: expected a vector for each text, got {_one_line(results)[:60]}")
    return {FINAL_STAGE: results}


def _read(path: Path) -> Any:
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if path.suffix == ".npz":
        try:
            with zipfile.ZipFile(path) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
            if size > MAX_FILE_BYTES:
                raise CannotCompareError(f"{path}: expected at most {MAX_FILE_BYTES} bytes unpacked, got {size}")
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except zipfile.BadZipFile as error:
            raise ValueError(str(error)) from None
    if path.suffix == ".safetensors":
        return {name: tensor.data for name, tensor in read_safetensors(path).items()}
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8-sig"))
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
        for i, row in enumerate(rows):
            if isinstance(row, dict) and "embedding" not in row:
                raise ValueError(f"row {i}: expected a vector or an object with the key 'embedding', got {list(row)}")
        return [row["embedding"] if isinstance(row, dict) else row for row in rows]
    raise CannotCompareError(f"{path}: expected a file {', '.join(SUFFIXES)}, got {path.suffix or 'no suffix'}")


def _join_cases(path: Path, results: Mapping[str, Any], cases: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Join the keys "07/embeddings", one for each text, to a list of all texts under "embeddings"."""
    stages: dict[str, Any] = {}
    by_stage: dict[str, dict[int, Any]] = {}
    for name, value in results.items():
        case, slash, stage = name.partition("/")
        if slash and case.isdigit():
            by_stage.setdefault(stage, {})[int(case)] = value
        else:
            stages[name] = value
    for stage, by_case in by_stage.items():
        sets = cases or [sorted(by_case)]
        expected = list(next((numbers for numbers in sets if len(numbers) == len(by_case)), sets[-1]))
        missing = [case for case in expected if case not in by_case]
        if missing:
            raise CannotCompareError(f"{path}: {stage}: expected cases {expected}, got no case {missing[0]}")
        stages[stage] = [by_case[case] for case in expected]
    return stages


# --- HTTP --------------------------------------------------------------------------------------


def http_endpoint(url: str, model: str = "all-MiniLM-L6-v2", key: str | None = None, timeout: float = 30.0) -> Encode:
    """Return a function that encodes texts with an HTTP endpoint.

    Parameters
    ----------
    url
        A URL that ends in /embeddings is called like OpenAI's /v1/embeddings, any other like the /embed of
        text-embeddings-inference.
    model
        The model name that is sent to /v1/embeddings.
    key
        Sent as a bearer token, if given.
    timeout
        Seconds to wait for a complete answer, not only for its next byte.

    Raises
    ------
    CannotCompareError
        If the URL is not valid. The returned function raises it if the endpoint fails.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CannotCompareError(f"{url}: expected http://host[:port]/embed or http://host[:port]/v1/embeddings")
    open_ai = parts.path.rstrip("/").endswith("/embeddings")

    def encode(texts: list[str]) -> Any:
        if not open_ai:
            return _vectors(url, _post(url, {"inputs": texts, "truncate": True}, key, timeout), len(texts))
        answers = []
        for encoding_format in ("float", "base64"):  # an endpoint may get only one of the two right
            body = {"model": model, "input": texts, "encoding_format": encoding_format}
            answers.append(_vectors(url, _open_ai_rows(url, _post(url, body, key, timeout)), len(texts)))
        from_floats, from_base64 = (np.asarray(answer, np.float64) for answer in answers)
        if from_floats.shape != from_base64.shape or not np.allclose(
            from_floats, from_base64, rtol=1e-6, atol=1e-9, equal_nan=True
        ):
            raise CannotCompareError(f"{url}: encoding_format 'float' and 'base64' give different vectors")
        return from_floats

    return encode


def _post(url: str, body: dict[str, Any], key: str | None, timeout: float) -> Any:
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        content_type, data = _run_within(timeout, lambda: _exchange(url, request, timeout))
    except TimeoutError:
        raise CannotCompareError(f"{url}: no complete answer within {timeout:g} s") from None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        start = _one_line(data[:60].decode(errors="replace"))
        raise CannotCompareError(f"{url}: expected JSON, got {content_type} {start!r}") from None


def _run_within(timeout: float, exchange: Callable[[], Any]) -> Any:
    """Return or raise what `exchange` does, or raise TimeoutError after `timeout` seconds.

    A socket's own timeout starts again with each byte, so a server that sends slowly would never reach it.
    """
    outcome: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue()

    def run() -> None:
        try:
            outcome.put((exchange(), None))
        except BaseException as error:
            outcome.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        value, error = outcome.get(timeout=timeout)
    except queue.Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return value


def _exchange(url: str, request: urllib.request.Request, timeout: float) -> tuple[str, bytes]:
    """Send the request and return the answer's content type and body."""
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            data = bytearray()
            while block := response.read1(65536):
                data += block
                if len(data) > MAX_ANSWER_BYTES:
                    raise CannotCompareError(f"{url}: the answer has more than {MAX_ANSWER_BYTES} bytes")
            return response.headers.get_content_type(), bytes(data)
    except urllib.error.HTTPError as error:
        with error:
            start = error.read(300).decode(errors="replace")
        raise CannotCompareError(f"{url}: HTTP {error.code}: {_one_line(start)}") from None
    except TimeoutError:
        raise
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            raise reason from None
        raise CannotCompareError(f"{url}: {_one_line(reason) or type(reason).__name__}") from None


def _open_ai_rows(url: str, answer: Any) -> list[Any]:
    """Return the vectors of an answer in OpenAI's format, sorted by their index."""
    try:
        data = answer["data"]
        if sorted(item["index"] for item in data) != list(range(len(data))):
            raise CannotCompareError(f"{url}: expected each index from 0 to {len(data) - 1} once")
        rows = [item["embedding"] for item in sorted(data, key=lambda item: item["index"])]
        return [_decode_base64(url, row) if isinstance(row, str) else row for row in rows]
    except (KeyError, TypeError):
        raise CannotCompareError(f"{url}: expected an object with data: [{{index, embedding}}, ...]") from None


def _decode_base64(url: str, text: str) -> Array:
    try:
        with np.errstate(invalid="ignore"):  # bytes in the wrong order may be NaN
            return np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float64)
    except ValueError:
        raise CannotCompareError(f"{url}: expected an embedding as a list or as base64 of float32") from None


def _vectors(url: str, rows: Any, n: int) -> Array:
    """Return the n rows of an answer as an array (n, D) in float64."""
    if not isinstance(rows, list) or len(rows) != n:
        got = f"{len(rows)} vectors" if isinstance(rows, list) else type(rows).__name__
        raise CannotCompareError(f"{url}: expected a list of {n} vectors, one for each text, got {got}")
    vectors = []
    for i, row in enumerate(rows):
        try:
            vector = np.asarray([np.nan if x is None else x for x in row])  # JSON has no NaN: some servers send null
            if vector.dtype.kind not in "fiu" or vector.ndim != 1 or not vector.size:
                raise ValueError
        except (TypeError, ValueError):
            got = repr(_one_line(row)[:60])
            raise CannotCompareError(f"{url}: vector {i}: expected a list of numbers, got {got}") from None
        vectors.append(vector.astype(np.float64))
    sizes = sorted({len(vector) for vector in vectors})
    if len(sizes) > 1:
        raise CannotCompareError(f"{url}: expected vectors of one size, got {sizes[0]} and {sizes[-1]} numbers")
    return np.stack(vectors)


# --- ONNX --------------------------------------------------------------------------------------


def onnx_file(path: Path) -> Encode:
    """Return a function that encodes texts with an exported model, run by ONNX Runtime with this package's tokenizer.

    If the model returns token embeddings, they are averaged and scaled to length 1.

    Raises
    ------
    CannotCompareError
        If onnxruntime is not installed, the file is not a valid model, or its inputs or outputs are unknown.
    """
    try:
        import onnxruntime
    except ImportError:
        raise CannotCompareError(f"{path}: needs onnxruntime, which is not installed") from None
    if not path.is_file():
        raise CannotCompareError(f"{path}: no such file")
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises many types
        raise CannotCompareError(f"{path}: {_one_line(error)}") from None
    inputs = [entry.name for entry in session.get_inputs()]
    if "input_ids" not in inputs or not set(inputs) <= set(ONNX_INPUTS):
        raise CannotCompareError(f"{path}: expected the inputs {', '.join(ONNX_INPUTS)}, got {', '.join(inputs)}")
    outputs = [entry.name for entry in session.get_outputs()]
    output_name = next((name for name in ONNX_OUTPUTS if name in outputs), outputs[0] if len(outputs) == 1 else None)
    if output_name is None or output_name == "pooler_output":  # BERT's pooler gives no sentence embedding
        raise CannotCompareError(
            f"{path}: expected one of the outputs {', '.join(ONNX_OUTPUTS)}, or one output that is not pooler_output, "
            f"got {', '.join(outputs)}"
        )
    tokenizer = _default_tokenizer()

    def encode(texts: list[str]) -> Any:
        tokens = tokenizer(texts)
        arrays = dict(zip(("input_ids", "token_type_ids", "attention_mask"), tokens.padded(), strict=True))
        (output,) = session.run([output_name], {name: arrays[name] for name in inputs})
        if output.ndim == 2:
            return output
        hidden_states = output.astype(np.float64)
        mask = arrays["attention_mask"]
        pooled = (hidden_states * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    return encode


def _default_tokenizer() -> Tokenizer:
    folder = weights.find_or_fetch().folder
    weights.verify(folder, {"tokenizer.json": weights.SHA256["tokenizer.json"]})
    return Tokenizer(folder / "tokenizer.json", read_config(folder).max_seq_length)


def _one_line(value: Any) -> str:
    return " ".join(str(value).split())[:200]
