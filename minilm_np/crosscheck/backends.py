"""Backends that are not a Python function at hand: a name, a file of results, an HTTP endpoint, an ONNX file.

Each function gives what `crosscheck` takes. What such a thing may do to us (hang, lie, send HTML or a gigabyte) ends in
a CannotCompareError of one line.
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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from minilm_np.checkpoint import WeightsError, read_safetensors
from minilm_np.crosscheck.compare import FINAL, CannotCompareError, Encode
from minilm_np.model import Array

LARGEST_FILE = 2**30  # bytes
LARGEST_ANSWER = 2**26
ONNX_OUTPUTS = ("sentence_embedding", "last_hidden_state", "token_embeddings")
SUFFIXES = (".npy", ".npz", ".safetensors", ".json", ".jsonl")


def load_function(name: str) -> Encode:
    """The function of "package.module:function"; the current folder is searched, too."""
    module, found, path = name.partition(":")
    if not found or not module or not path:
        raise CannotCompareError(f"{name}: wanted package.module:function")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        function: Any = importlib.import_module(module)
        for part in path.split("."):
            function = getattr(function, part)
    except Exception as error:  # whatever importing a stranger's module raises
        raise CannotCompareError(f"{name}: {type(error).__name__}: {_line(error)}") from error
    if not callable(function):
        raise CannotCompareError(f"{name}: found {type(function).__name__}, wanted a function of a list of str")
    encode: Encode = function
    return encode


# --- files -------------------------------------------------------------------------------------


def read_dump(path: Path) -> dict[str, Any]:
    """Stages by name from a file of results; a lone array is the final vectors.

    .npy: (40, 384). .npz, .safetensors: arrays by stage, or "{case}/{stage}" as in a golden bundle. .json: a list of
    vectors, or an object of such lists by stage. .jsonl: a line a text: a vector, or an object with "embedding".
    """
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise CannotCompareError(f"{path}: found {path.stat().st_size} bytes, wanted at most {LARGEST_FILE}")
        found = _read(path)
    except OSError as error:
        raise CannotCompareError(f"{path}: {error.strerror or error}") from None
    except CannotCompareError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError, RuntimeError, WeightsError, EOFError, zlib.error) as error:
        raise CannotCompareError(f"{path}: not a valid {path.suffix} file: {_line(error)}") from None
    if isinstance(found, Mapping):
        return _of_cases(path, found)
    if not isinstance(found, list) and np.ndim(found) == 0:
        raise CannotCompareError(f"{path}: found {_line(found)[:60]}, wanted a vector for each text")
    return {FINAL: found}


def _read(path: Path) -> Any:
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    if path.suffix == ".npz":
        try:
            with zipfile.ZipFile(path) as archive:
                size = sum(entry.file_size for entry in archive.infolist())
            if size > LARGEST_FILE:
                raise CannotCompareError(f"{path}: found {size} bytes unpacked, wanted at most {LARGEST_FILE}")
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except zipfile.BadZipFile as error:
            raise ValueError(str(error)) from None
    if path.suffix == ".safetensors":
        return {name: tensor.data for name, tensor in read_safetensors(path).items()}
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return [row["embedding"] if isinstance(row, dict) else row for row in rows]
    raise CannotCompareError(f"{path}: found {path.suffix or 'no suffix'}, wanted {', '.join(SUFFIXES)}")


def _of_cases(path: Path, found: Mapping[str, Any]) -> dict[str, Any]:
    """Stages of all texts in order, where a bundle's keys "07/embeddings" name one text each."""
    from minilm_np.crosscheck.probes import TEXTS
    from minilm_np.crosscheck.truth import STAGE_ROWS

    stages: dict[str, Any] = {}
    cases: dict[str, dict[int, Any]] = {}
    for name, value in found.items():
        case, slash, stage = name.partition("/")
        if slash and case.isdigit():
            cases.setdefault(stage, {})[int(case)] = value
        else:
            stages[name] = value
    for stage, by_case in cases.items():
        wanted = list(range(len(TEXTS))) if len(by_case) == len(TEXTS) else list(STAGE_ROWS)
        missing = [case for case in wanted if case not in by_case]
        if missing:
            raise CannotCompareError(f"{path}: {stage}: found no case {missing[0]}, wanted cases {wanted}")
        stages[stage] = [by_case[case] for case in wanted]
    return stages


# --- HTTP --------------------------------------------------------------------------------------


def http_endpoint(url: str, model: str = "all-MiniLM-L6-v2", key: str | None = None, timeout: float = 30.0) -> Encode:
    """An endpoint shaped as text-embeddings-inference's /embed or as OpenAI's /v1/embeddings, by the end of its URL.

    timeout: seconds for a whole answer, not only for its next byte.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise CannotCompareError(f"{url}: wanted http://host[:port]/embed or http://host[:port]/v1/embeddings")
    open_ai = parts.path.rstrip("/").endswith("/embeddings")

    def encode(texts: list[str]) -> Any:
        if not open_ai:
            return _vectors(url, _post(url, {"inputs": texts, "truncate": True}, key, timeout), len(texts))
        answers = []
        for form in ("float", "base64"):  # one of the two may be wrong alone
            body = {"model": model, "input": texts, "encoding_format": form}
            answers.append(_vectors(url, _open_ai(url, _post(url, body, key, timeout)), len(texts)))
        plain, packed = (np.asarray(answer, np.float64) for answer in answers)
        if plain.shape != packed.shape or not np.allclose(plain, packed, rtol=1e-6, atol=1e-9, equal_nan=True):
            raise CannotCompareError(f"{url}: encoding_format 'float' and 'base64' give different vectors")
        return plain

    return encode


def _post(url: str, body: dict[str, Any], key: str | None, timeout: float) -> Any:
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        kind, data = _within(timeout, lambda: _exchange(url, request, timeout))
    except TimeoutError:
        raise CannotCompareError(f"{url}: no whole answer within {timeout:g} s") from None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        start = _line(data[:60].decode(errors="replace"))
        raise CannotCompareError(f"{url}: found {kind} {start!r}, wanted JSON") from None


def _within(timeout: float, exchange: Callable[[], Any]) -> Any:
    """What `exchange` returns or raises. A socket's own time-out begins anew with each byte; this one does not."""
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
    """Content type and body."""
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            data = bytearray()
            while block := response.read1(65536):
                data += block
                if len(data) > LARGEST_ANSWER:
                    raise CannotCompareError(f"{url}: the answer has more than {LARGEST_ANSWER} bytes")
            return response.headers.get_content_type(), bytes(data)
    except urllib.error.HTTPError as error:
        with error:
            start = error.read(300).decode(errors="replace")
        raise CannotCompareError(f"{url}: HTTP {error.code}: {_line(start)}") from None
    except TimeoutError:
        raise
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            raise reason from None
        raise CannotCompareError(f"{url}: {_line(reason) or type(reason).__name__}") from None


def _open_ai(url: str, answer: Any) -> list[Any]:
    """The vectors of an OpenAI-shaped answer, in the order of their index."""
    try:
        data = answer["data"]
        if sorted(item["index"] for item in data) != list(range(len(data))):
            raise CannotCompareError(f"{url}: the answer's index numbers are not 0 to {len(data) - 1}")
        rows = [item["embedding"] for item in sorted(data, key=lambda item: item["index"])]
        return [_decode(url, row) if isinstance(row, str) else row for row in rows]
    except (KeyError, TypeError):
        raise CannotCompareError(f"{url}: wanted an object with data: [{{index, embedding}}, ...]") from None


def _decode(url: str, text: str) -> Array:
    try:
        with np.errstate(invalid="ignore"):  # of the wrong bytes some are no numbers
            return np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float64)
    except ValueError:
        raise CannotCompareError(f"{url}: an embedding is neither a list nor base64 of float32") from None


def _vectors(url: str, rows: Any, n: int) -> Array:
    if not isinstance(rows, list) or len(rows) != n:
        found = f"{len(rows)} vectors" if isinstance(rows, list) else type(rows).__name__
        raise CannotCompareError(f"{url}: found {found}, wanted a list of {n}: one for each text")
    vectors = []
    for i, row in enumerate(rows):
        try:
            vector = np.asarray([np.nan if x is None else x for x in row])  # JSON has no NaN: some send null
            if vector.dtype.kind not in "fiu" or vector.ndim != 1 or not vector.size:
                raise ValueError
        except (TypeError, ValueError):
            raise CannotCompareError(
                f"{url}: vector {i}: found {_line(row)[:60]!r}, wanted a list of numbers"
            ) from None
        vectors.append(vector.astype(np.float64))
    sizes = sorted({len(vector) for vector in vectors})
    if len(sizes) > 1:
        raise CannotCompareError(f"{url}: found vectors of {sizes[0]} and of {sizes[-1]} numbers in one answer")
    return np.stack(vectors)


# --- ONNX --------------------------------------------------------------------------------------


def onnx_file(path: Path) -> Encode:
    """An exported model, by onnxruntime, with this package's tokenizer; token embeddings are pooled and normalised."""
    try:
        import onnxruntime
    except ImportError:
        raise CannotCompareError(f"{path}: needs onnxruntime, which is not installed") from None
    if not path.is_file():
        raise CannotCompareError(f"{path}: no such file")
    from minilm_np.crosscheck.truth import truth
    from minilm_np.tokenizer import Tokenizer

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has many of its own
        raise CannotCompareError(f"{path}: {_line(error)}") from None
    names = [entry.name for entry in session.get_inputs()]
    unknown = sorted(set(names) - {"input_ids", "attention_mask", "token_type_ids"})
    if unknown or "input_ids" not in names:
        raise CannotCompareError(f"{path}: found inputs {names}, wanted input_ids, attention_mask, token_type_ids")
    outputs = [entry.name for entry in session.get_outputs()]
    # the usual exports' names; a BERT's pooler_output is no sentence embedding
    wanted = next((name for name in ONNX_OUTPUTS if name in outputs), outputs[0] if len(outputs) == 1 else None)
    if wanted is None or wanted == "pooler_output":
        raise CannotCompareError(f"{path}: found outputs {outputs}, wanted one of {list(ONNX_OUTPUTS)}, or one output")
    checkpoint = truth().checkpoint
    tokenizer = Tokenizer(checkpoint.folder / "tokenizer.json", checkpoint.config.max_seq_length)

    def encode(texts: list[str]) -> Any:
        tokens = tokenizer(texts)
        lengths = np.diff(tokens.offsets)
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.zeros(mask.shape, np.int64)
        ids[mask] = tokens.token_ids
        inputs = {"input_ids": ids, "attention_mask": mask.astype(np.int64), "token_type_ids": np.zeros_like(ids)}
        (output,) = session.run([wanted], {name: inputs[name] for name in names})
        if output.ndim == 2:
            return output
        hidden_states = output.astype(np.float64)
        pooled = (hidden_states * mask[:, :, None]).sum(axis=1) / lengths[:, None]
        return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

    return encode


def _line(value: Any) -> str:
    return " ".join(str(value).split())[:200]
