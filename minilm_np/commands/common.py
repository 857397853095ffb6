"""Functions that several commands use: shared options, loading the model, reading lines, writing files."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from minilm_np.files import check_writable, replaced

if TYPE_CHECKING:
    from minilm_np import SentenceTransformer
    from minilm_np.targets import Target

API_KEY_VARIABLE = "MINILM_NP_API_KEY"
API_KEY_HELP = f"If ${API_KEY_VARIABLE} is set, HTTP endpoints get it as a bearer token."
MAX_TEXTS_FOR_NUMPY = 100


# --- options -----------------------------------------------------------------------------------


def name_argument(text: str) -> str:
    """The type of an argument that names a file or folder: an empty one would name the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a name of a file or folder, got ''")
    return text


def path_argument(text: str) -> Path:
    """The same type for an argument that is a Path."""
    return Path(name_argument(text))


def add_model_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        type=name_argument,
        metavar="DIR",
        help="folder of another model, or its name if it is in the Hugging Face cache (default: all-MiniLM-L6-v2)",
    )


def add_dtype_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        metavar="D",
        help="what the dense layers compute in: float32, float64 (slow), or bfloat16 or int8 (less exact, but faster "
        "on CPUs with instructions for them); default: float32",
    )


def add_endpoint_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `open_target` reads."""
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="S", help="seconds to wait for each HTTP answer (default: 30)"
    )
    parser.add_argument(
        "--model-name",
        default="all-MiniLM-L6-v2",
        metavar="NAME",
        help="model name to send to /v1/embeddings (default: all-MiniLM-L6-v2)",
    )


def check_at_least_one(option: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{option}: expected 1 or more, got {value}")


def check_outputs(arguments: argparse.Namespace, *options: str) -> None:
    """Raise ValueError if the file of an option cannot be written. Called before the work, which can take hours.

    A temporary file is written where the later one will be, because no other check finds every reason.
    """
    for option in options:
        path = getattr(arguments, option)
        if path is None or str(path) == "-":
            continue
        if not os.path.isdir(path.parent):
            raise ValueError(f"--{option}: {path.parent} is not a folder")
        if os.path.isdir(path):
            raise ValueError(f"--{option}: expected a file, got the folder {path}")
        try:
            check_writable(path)
        except OSError as error:
            raise ValueError(f"--{option}: {path} is not writable: {error.strerror}") from None


# --- model and targets -------------------------------------------------------------------------


def load_model(folder: str | None, number_of_texts: int, dtype: str | None = None) -> SentenceTransformer:
    """Load a model, by default all-MiniLM-L6-v2, with the op set that is faster for that number of texts."""
    from minilm_np import SentenceTransformer
    from minilm_np.encoder import LOW_PRECISION

    # Importing Numba takes half a second, in which NumPy encodes a hundred short texts. Only Numba has low precisions.
    backend = "numpy" if number_of_texts <= MAX_TEXTS_FOR_NUMPY and dtype not in LOW_PRECISION else "auto"
    return SentenceTransformer(folder, backend=backend, dtype="float32" if dtype is None else dtype)


def open_target(
    name: str, arguments: argparse.Namespace, cases: Sequence[Sequence[int]] = (), texts: Sequence[str] = ()
) -> Target:
    """Open a TARGET with the options of `add_endpoint_options` and the key in $MINILM_NP_API_KEY."""
    from minilm_np import targets

    if not 0 < arguments.timeout <= targets.MAX_TIMEOUT:
        most = targets.MAX_TIMEOUT
        raise ValueError(f"--timeout: expected seconds above 0 and at most {most}, got {arguments.timeout:g}")
    return targets.open_target(
        name,
        model=arguments.model_name,
        key=os.environ.get(API_KEY_VARIABLE),
        timeout=arguments.timeout,
        cases=cases,
        texts=texts,
    )


# --- files -------------------------------------------------------------------------------------


def read_lines(name: str) -> list[str]:
    """Return the lines of a UTF-8 file, or of standard input if `name` is "-", without their line ends (LF or CRLF).

    Raises ValueError, naming file and line, if a line is not UTF-8 or the file looks like UTF-16.
    """
    source = "standard input" if name == "-" else name
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise OSError(error.errno, error.strerror, source) from None
    # A text may have a NUL, but in UTF-16 nearly every second byte of English, and every line end, has one.
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or data.count(0) > len(data) / 10:
        raise ValueError(f"{source}: expected UTF-8, got UTF-16 or binary data")
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if lines[-1] == b"":  # the file is empty or ends with a line end
        lines.pop()
    texts = []
    for number, line in enumerate(lines, 1):
        try:
            texts.append(line.removesuffix(b"\r").decode("utf-8"))
        except UnicodeDecodeError as error:
            raise ValueError(f"{source}, line {number}: not UTF-8 at byte {error.start}") from None
    return texts


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write the whole file; if `write` fails, the old file stays."""
    with replaced(path) as part, part.open("wb") as file:
        write(file)


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write((text + "\n").encode()))


def write_json_and_print(path: Path | None, json_text: str, summary: str) -> None:
    """Write the JSON to `path`, if given, and print the summary even if writing fails. "-" prints only the JSON."""
    if str(path) == "-":
        print(json_text)
        return
    try:
        if path is not None:
            write_text(path, json_text)
    finally:
        print(summary)
