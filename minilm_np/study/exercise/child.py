"""The process that runs a student's file, so that whatever the file does ends as a message.

    python -m minilm_np.study.exercise.child JOB

JOB is JSON: folder, holes (which to run, in this order), seconds (the time limit of each), keep_layer_norm. Messages
are written to standard output, each as its size (8 bytes, little-endian) and an .npz file with a JSON header. What the
student's code prints is discarded.

Each hole is run alone: the functions that it calls are replaced by right ones. `whole` is `encode` with none replaced.
"""

from __future__ import annotations

import importlib.util
import io
import json
import linecache
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np

from minilm_np.model import Array
from minilm_np.study.exercise import holes
from minilm_np.study.exercise.holes import Case
from minilm_np.study.exercise.wrong_answers import Parameters

FILE = "encoder.py"
WHOLE = "whole"
PARAMETERS = {  # of each hole's function, without params
    "embeddings": ("token_ids", "token_type_ids"),
    "layer_norm": ("x", "weight", "bias"),
    "attention": ("layer", "hidden_states"),
    "feed_forward": ("layer", "attention_output"),
    "pooling": ("hidden_states",),
    "encode": ("token_ids", "token_type_ids"),
}
WITHOUT_PARAMS = ("layer_norm", "pooling")
MAX_ELEMENTS = 10**7  # of a result that is sent
TIMED_OUT = 3  # exit code


class Channel:
    """Writes messages; the watchdog's thread uses it, too."""

    def __init__(self, descriptor: int):
        self.file = os.fdopen(descriptor, "wb")
        self.lock = threading.Lock()

    def send(self, arrays: Mapping[str, Array] | None = None, **header: Any) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, header=np.array(json.dumps(header)), **(arrays or {}))  # type: ignore[arg-type]
        data = buffer.getvalue()
        with self.lock:
            self.file.write(len(data).to_bytes(8, "little") + data)
            self.file.flush()


class Answer:
    """A student's file."""

    def __init__(self, path: Path, channel: Channel, seconds: float):
        self.path, self.channel, self.seconds = path, channel, seconds
        self.module = ModuleType("encoder")
        self.functions: dict[str, Any] = {}

    # --- run code that may do anything ---------------------------------------------------------

    def guarded(self, name: str, function: Callable[[], Any], until: float | None = None) -> tuple[Any, str, str]:
        """Call a function; return its result, a status ("done", "not written" or "raised") and a message.

        If it takes longer than until that time, or longer than `seconds`, say so in a message and end the process.
        """
        main = threading.get_ident()

        def give_up() -> None:
            frame = sys._current_frames().get(main)
            while frame is not None and frame.f_code.co_filename != str(self.path):
                frame = frame.f_back
            where = "" if frame is None else f", in {self.line(frame.f_lineno)}"
            self.channel.send(kind="timeout", hole=name, message=f"not finished after {self.seconds:g} seconds{where}")
            os._exit(TIMED_OUT)

        left = self.seconds if until is None else until - time.monotonic()
        timer = threading.Timer(max(0.0, left), give_up)
        timer.daemon = True
        self.channel.send(kind="begin", hole=name)
        timer.start()
        try:
            return function(), "done", ""
        except NotImplementedError as error:
            return None, "not written", f"raises NotImplementedError in {self.line_of(error.__traceback__)}"
        except SystemExit as error:
            return None, "raised", f"ends the program (sys.exit or exit) in {self.line_of(error.__traceback__)}"
        except BaseException as error:  # a student's code may raise anything
            what = " ".join(str(error).split())[:200]
            says = f"raises {type(error).__name__}{': ' if what else ''}{what}, in {self.line_of(error.__traceback__)}"
            if isinstance(error, ValueError) and ("matmul" in what or "not aligned" in what):
                says += " (a weight is stored as (outputs, inputs): x @ weight.T)"
            return None, "raised", says
        finally:
            timer.cancel()

    def line(self, number: int) -> str:
        source = " ".join(linecache.getline(str(self.path), number).split())
        return f"line {number}" + (f": {source[:100]}" if source else "")

    def line_of(self, traceback: TracebackType | None) -> str:
        """Return the last line of the student's file in a traceback."""
        number = 0
        while traceback is not None:
            if traceback.tb_frame.f_code.co_filename == str(self.path):
                number = traceback.tb_lineno
            traceback = traceback.tb_next
        return self.line(number) if number else FILE

    def load(self) -> tuple[str, str]:
        """Import the file; return a status and a message."""

        def load() -> None:
            spec = importlib.util.spec_from_file_location("encoder", self.path)
            assert spec is not None and spec.loader is not None
            self.module = importlib.util.module_from_spec(spec)
            sys.modules["encoder"] = self.module
            sys.path.insert(0, str(self.path.parent))
            spec.loader.exec_module(self.module)

        _, status, message = self.guarded("import", load)
        self.functions = {hole: getattr(self.module, hole, None) for hole in holes.HOLES}
        return status, message

    # --- run a hole ----------------------------------------------------------------------------

    def run(self, hole: str, cases: list[Case], params: Mapping[str, Array], kept: set[str]) -> dict[str, Array]:
        """Run a hole, or the whole model, on its cases, send the results, and return them."""
        name = "encode" if hole == WHOLE else hole
        function = self.functions[name]
        if not callable(function):
            what = f"{FILE} has no function {name}" if function is None else f"{name} in {FILE} is not a function"
            self.channel.send(kind="result", hole=hole, status="missing", message=what)
            return {}
        calls: list[dict[str, Any]] = []
        shared = Parameters(params, {})
        for other in holes.HOLES:
            if other != name:
                own = hole == WHOLE or other in kept
                made = self.functions[other] if own else reference(other, shared)
                recorded = name == "encode" and other != "layer_norm" and callable(made)
                setattr(self.module, other, recorder(other, made, calls) if recorded else made)
        arrays: dict[str, Array] = {}
        changed: set[str] = set()
        first_calls: list[dict[str, Any]] = []
        status, message = "done", ""
        until = time.monotonic() + self.seconds
        for i, case in enumerate(cases):
            calls.clear()
            given = {
                key: value.copy() if isinstance(value, np.ndarray) else value for key, value in case.arguments.items()
            }
            positional = [given[key] for key in PARAMETERS[name]]
            if case.parameters is not None:
                positional.insert(0, dict(case.parameters.params))
            result, status, message = self.guarded(hole, lambda positional=positional: function(*positional), until)  # type: ignore[misc]
            if i == 0:
                first_calls = list(calls)
            if status == "done":
                problem = not_an_array(result, case.right.shape)
                status, message = ("bad", problem) if problem else (status, message)
            if status != "done":
                message += f"; called with {case.label}" if i and status != "not written" else ""
                break
            arrays[f"result{i}"] = np.array(result, np.float64)
            changed |= {
                key
                for key, value in given.items()
                if isinstance(value, np.ndarray) and not np.array_equal(value, case.arguments[key])
            }
        for number, call in enumerate(first_calls):
            output = call.pop("output")
            if output is not None:
                arrays[f"call{number}"] = output
        self.channel.send(
            arrays, kind="result", hole=hole, status=status, message=message, changed=sorted(changed), calls=first_calls
        )
        return arrays


def not_an_array(result: Any, shape: tuple[int, ...]) -> str:
    """Say what is wrong with a result that cannot be compared, or return ""."""
    expected = f"expected an array of float32 or float64 {shape}"
    if result is None:
        return f"{expected}, got None: is there a return?"
    if not isinstance(result, np.ndarray | np.floating):
        return f"{expected}, got {type(result).__name__}"
    if result.dtype.kind != "f" or result.dtype.itemsize < 4:
        return f"{expected}, got {result.dtype} {result.shape}"
    if isinstance(result, np.ma.MaskedArray):
        return f"{expected}, got a masked array"
    return f"{expected}, got shape {result.shape}" if result.size > MAX_ELEMENTS else ""


def reference(hole: str, parameters: Parameters) -> Callable[..., Array]:
    """Return the right function of a hole. It ignores arguments that a student's version may have in addition."""

    def function(*arguments: Any, **named: Any) -> Array:
        names = PARAMETERS[hole] if hole in WITHOUT_PARAMS else ("params", *PARAMETERS[hole])
        given = {
            **dict(zip(names, arguments, strict=False)),
            **{key: value for key, value in named.items() if key in names},
        }
        missing = [name for name in names if name not in given]
        if missing:
            raise TypeError(f"{hole}() missing argument {missing[0]!r}")
        given.pop("params", None)  # always those of the checkpoint
        return Case(hole, "", given, None if hole in WITHOUT_PARAMS else parameters, "").right

    function.__name__ = hole
    return function


def recorder(name: str, function: Callable[..., Any], calls: list[dict[str, Any]]) -> Callable[..., Any]:
    """Return the function, with each call added to `calls`: its name, layer, result, and whose result it received."""

    names = PARAMETERS[name] if name in WITHOUT_PARAMS else ("params", *PARAMETERS[name])

    def recorded(*arguments: Any, **named: Any) -> Any:
        given = {**dict(zip(names, arguments, strict=False)), **named}
        received, layer = given.get("hidden_states", given.get("attention_output")), given.get("layer")
        source = -1
        for number, call in enumerate(calls):
            if (
                call["output"] is not None
                and isinstance(received, np.ndarray)
                and np.array_equal(call["output"], received)
            ):
                source = number
        result = function(*arguments, **named)
        usable = isinstance(result, np.ndarray) and result.dtype.kind == "f" and result.size <= MAX_ELEMENTS
        calls.append(
            {
                "name": name,
                "layer": int(layer) if isinstance(layer, int | np.integer) else None,
                "source": source,
                "output": np.array(result, np.float64) if usable else None,
            }
        )
        return result

    return recorded


def main(job: str) -> None:
    given = json.loads(job)
    channel = Channel(os.dup(1))
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8", errors="replace")  # noqa: SIM115, PTH123
    warnings.simplefilter("ignore")
    exercise = holes.load()
    answer = Answer(Path(given["folder"]) / FILE, channel, given["seconds"])
    status, message = answer.load()
    if status != "done":
        channel.send(kind="unusable", hole="import", message=message)
        os._exit(0)
    kept = {"layer_norm"} if given["keep_layer_norm"] else set()
    params = exercise.checkpoint.params
    for hole in given["holes"]:
        cases = exercise.cases["encode" if hole == WHOLE else hole]
        arrays = answer.run(hole, cases, params, kept)
        if hole == "layer_norm" and all(is_right(case, arrays.get(f"result{i}")) for i, case in enumerate(cases)):
            kept.add(hole)  # it may have further arguments, such as eps, that other holes pass
    channel.send(kind="end", hole="")
    os._exit(0)  # a student's threads may still run


def is_right(case: Case, result: Array | None) -> bool:
    """Whether a result is within the tolerance of its stage."""
    if result is None or result.shape != case.right.shape:
        return False
    return bool(np.all(np.abs(result - case.right) <= case.tolerance))


if __name__ == "__main__":
    main(sys.argv[1])
