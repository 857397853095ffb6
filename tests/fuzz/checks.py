"""What must hold for every case. These functions run in the child process and raise FaultError where it does not."""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from minilm_np import SentenceTransformer, cli

Array = npt.NDArray[Any]
DOCUMENTED = (ValueError, TypeError, OSError)  # the kinds of errors that the documentation promises
LONGEST_MESSAGE = 2000  # characters
# Parts of a message that say what is wrong: files of a checkpoint, and arguments of SentenceTransformer.
CHECKPOINT_NAMES = (
    ".json",
    "model.safetensors",
    "sentences[",
    "sentences:",
    "backend:",
    "prompt",
    "model_name_or_path:",
)

OP_SETS = 1e-5  # between the op sets, unit vectors of the tiny checkpoint; measured 6e-7
SAME_TEXT = (
    3e-6  # the same text alone and beside others on the NumPy op set; measured 4e-7. On Numba the bits are equal.
)
# Extreme weights can amplify the rounding of float32 without bound. Vectors are compared only where float32 on the
# NumPy op set is this close to float64, relative to the largest element.
WELL_CONDITIONED, CLOSE = 1e-5, 1e-3


class FaultError(Exception):
    """Raised where the package does what it must not do."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind  # "message", "op sets", "neighbor", "passed", ...: what tells two faults apart


class Answer(NamedTuple):
    """A value, or the message of a documented error."""

    value: Any
    error: str | None


def attempt(call: Callable[[], Any], names: Iterable[str]) -> Answer:
    """Call, and check that an error is of a documented kind and its message one line that has one of the names."""
    try:
        return Answer(call(), None)
    except UnicodeError as error:  # a ValueError that names neither file nor argument, and shows the whole input
        raise FaultError("message", f"bare {type(error).__name__}: {str(error)[:300]}") from error
    except DOCUMENTED as error:
        text = str(error)
        check_message(text, names, error)
        return Answer(None, f"{type(error).__name__}: {text}")


def check_message(text: str, names: Iterable[str], error: BaseException | None = None) -> None:
    kind = f"{type(error).__name__}: " if error else ""
    lists_places = "files not found" in text and "Searched:" in text  # WeightsNotFoundError, in many lines
    problem = (
        "more than one line" if "\n" in text and not lists_places
        else "too long" if len(text) > LONGEST_MESSAGE
        else "names neither file nor argument" if not any(name in text for name in names)
        else None
    )  # fmt: skip
    if problem:
        raise FaultError("message", f"{problem}: {kind}{text[:400]!r}") from error


# --- vectors -----------------------------------------------------------------------------------


def as_input(text: Any) -> Any:
    return tuple(text) if isinstance(text, list) else text


def check_checkpoint(
    folder: Path, texts: Sequence[Any], *, odd_weights: bool = False, names: Iterable[str] = ()
) -> str:
    """Load a checkpoint on both op sets, encode texts together and alone, and compare everything.

    With `odd_weights`, vectors are compared only where they are well conditioned.
    """
    names = (*CHECKPOINT_NAMES, *names)
    numpy, numba = (_load(folder, backend, names) for backend in ("numpy", "numba"))
    if numba.error and "backend: expected" in numba.error and "Numba does not work" not in numba.error:
        numba = numpy  # the kernels do not support the sizes
    _same_refusal("load", numpy, numba)
    if numpy.error:
        return numpy.error
    exact = None
    if odd_weights:
        exact = SentenceTransformer(str(folder), backend="numpy", dtype="float64")
    together = [_encode(model.value, texts, names) for model in (numpy, numba)]
    again = _encode(numba.value, texts, names)
    if again.error != together[1].error or (
        not again.error and not np.array_equal(again.value, together[1].value, equal_nan=True)
    ):
        raise FaultError("random", f"numba: the second time, the same texts give {again.error or 'other vectors'}")
    _same_refusal("encode", *together)
    alone = [[_encode(model.value, [text], names) for model in (numpy, numba)] for text in texts]
    for row, answers in enumerate(alone):
        _same_refusal(f"encode text {row} alone", *answers)
    if together[0].error:
        if not any(answers[0].error for answers in alone):
            raise FaultError("neighbor", f"each text is encoded alone, all together refused: {together[0].error}")
        return together[0].error
    for row, answers in enumerate(alone):
        if answers[0].error:
            raise FaultError("neighbor", f"text {row} is encoded beside others, and refused alone: {answers[0].error}")
    reference = exact.encode(texts) if exact else together[0].value
    _compare_values(together, alone, reference, well_conditioned=not odd_weights)
    return "vectors"


def _load(folder: Path, backend: str, names: Iterable[str]) -> Answer:
    threads = 2 if backend == "numba" else None
    return attempt(lambda: SentenceTransformer(str(folder), backend=backend, threads=threads), names)


def _encode(model: Any, texts: Sequence[Any], names: Iterable[str]) -> Answer:
    return attempt(
        lambda: model.encode([list(t) if isinstance(t, tuple) else t for t in texts], truncation="ignore"), names
    )


def _same_refusal(what: str, numpy: Answer, numba: Answer) -> None:
    start_of = [(answer.error or "").partition(" got ")[0] for answer in (numpy, numba)]  # of equals, any may be named
    if start_of[0] != start_of[1]:
        raise FaultError("op sets", f"{what}: numpy {numpy.error or 'answers'}; numba {numba.error or 'answers'}")


def _compare_values(together: list[Answer], alone: list[list[Answer]], exact: Array, well_conditioned: bool) -> None:
    numpy, numba = (answer.value.astype(np.float64) for answer in together)
    for row, answers in enumerate(alone):
        from_numpy, from_numba = (answer.value[0] for answer in answers)
        if not np.array_equal(from_numba, together[1].value[row], equal_nan=True):
            raise FaultError(
                "neighbor", f"numba: text {row} alone and beside others differ by {_difference(from_numba, numba[row])}"
            )
        if well_conditioned or _close(numpy[row], exact[row], WELL_CONDITIONED):
            tolerance = SAME_TEXT if well_conditioned else CLOSE
            if not _close(from_numpy, numpy[row], tolerance):
                raise FaultError(
                    "neighbor",
                    f"numpy: text {row} alone and beside others differ by {_difference(from_numpy, numpy[row])}",
                )
            if not _close(numba[row], numpy[row], OP_SETS if well_conditioned else CLOSE):
                raise FaultError("op sets", f"vectors of text {row} differ by {_difference(numba[row], numpy[row])}")


def _close(a: Array, b: Array, tolerance: float) -> bool:
    """Return whether finite elements are close, relative to the largest, and all others equal."""
    finite = np.isfinite(a) & np.isfinite(b)
    others = ~finite
    size = max(1.0, float(np.abs(b[finite]).max(initial=0)))
    return bool(
        np.abs(a[finite] - b[finite]).max(initial=0) <= tolerance * size
        and np.array_equal(np.isnan(a[others]), np.isnan(b[others]))
    )


def _difference(a: Array, b: Array) -> str:
    with np.errstate(invalid="ignore"):
        return f"{np.abs(a - b).max():.2g}"


# --- the command line --------------------------------------------------------------------------


class Finished(NamedTuple):
    """The result of a command."""

    code: int
    out: bytes
    err: str


def command(arguments: Sequence[str], stdin: bytes = b"", closed: Sequence[str] = ()) -> Finished:
    """Run `minilm-np` in this process, with streams of its own; those in `closed` are None, as Python has them then."""
    err = io.BytesIO()
    with tempfile.TemporaryFile() as out, contextlib.ExitStack() as restore:  # in a file, output needs no memory
        streams = {
            "stdin": io.TextIOWrapper(io.BufferedReader(io.BytesIO(stdin)), encoding="utf-8"),
            "stdout": io.TextIOWrapper(out, encoding="utf-8", write_through=True),
            "stderr": io.TextIOWrapper(err, encoding="utf-8", errors="backslashreplace", write_through=True),
        }
        for name, stream in streams.items():
            restore.callback(setattr, sys, name, getattr(sys, name))
            setattr(sys, name, None if name in closed else stream)
        try:
            code = cli.main(arguments)
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        out.seek(0)
        return Finished(code, out.read(), err.getvalue().decode())


def check_command(
    result: Finished, names: Iterable[str], closed: Sequence[str] = (), codes: Iterable[int] = (0, 1)
) -> str:
    """Check the exit code and the messages of a command that may succeed with `codes`, or fail with 2 and one line."""
    if result.code in codes:
        if "Traceback" in result.err:
            raise FaultError("stderr", result.err[:400])
        return f"exit {result.code}"
    if result.code != 2:
        raise FaultError("exit code", f"{result.code}: {result.err[:400]!r}")
    if "stderr" in closed:
        return "exit 2"
    last = result.err.rstrip("\n").rpartition("\n")[2] if result.err.startswith("usage: ") else result.err.rstrip("\n")
    if not last.startswith("minilm-np") or "error: " not in last:
        raise FaultError("message", f"expected 'minilm-np: error: ...', got {result.err[:400]!r}")
    if not result.err.startswith("usage: "):
        check_message(last.removeprefix("minilm-np: error: "), names)
    if result.out:
        raise FaultError("stdout", f"exit code 2, and output {result.out[:100]!r}")
    return f"exit 2: {last}"
