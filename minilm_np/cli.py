"""The program `minilm-np`: it prints results to stdout, and an error as one line to stderr with exit code 2."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from minilm_np import __version__
from minilm_np.commands import (
    compile,
    crosscheck,
    encode,
    evaluate,
    exercise,
    fetch,
    goldens,
    info,
    lab,
    quantize,
    search,
    similarity,
    trace,
    train,
)

COMMANDS = (
    similarity,
    encode,
    search,
    trace,
    lab,
    exercise,
    crosscheck,
    goldens,
    evaluate,
    train,
    quantize,
    fetch,
    compile,
    info,
)
CLOSED_PIPE = 128 + 13  # the exit code that a shell reports for a program ended by SIGPIPE
WRITE_ERRORS = (errno.EBADF, errno.EFBIG, errno.EIO, errno.ENOSPC)  # without a name, they come from standard output
INTERRUPTED = 128 + 2  # ... by SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    argv
        The arguments. Default: those of the process.

    Returns
    -------
    int
        0 for success, 1 if crosscheck, evaluate or exercise find a difference, 2 for an error, 130 for Ctrl-C, 141 for
        a closed pipe.
    """
    with _standard_streams():
        try:
            return _run(argv)
        except KeyboardInterrupt:
            return INTERRUPTED
        except BrokenPipeError:
            _discard(sys.stdout)
            return CLOSED_PIPE


def _run(argv: Sequence[str] | None) -> int:
    try:
        try:
            arguments = _parser().parse_args(argv)
        finally:  # --help and --version print, then raise SystemExit
            _flush_output()
        code: int | None = arguments.run(arguments)
        _flush_output()
    except BrokenPipeError:
        raise
    except (OSError, ValueError, TypeError, ImportError, MemoryError, NotImplementedError) as error:
        with contextlib.suppress(OSError):
            _flush_output()
        with contextlib.suppress(OSError):  # nobody can be told
            print(f"minilm-np: error: {_message(error)}", file=sys.stderr)
        return 2
    return code or 0


def _flush_output() -> None:
    """Write what has been printed. Raises OSError if it cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        _discard(sys.stdout)
        raise


def _discard(stream: TextIO) -> None:
    """Send what is left in a stream nowhere: the interpreter flushes again at exit, and would fail again."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def _standard_streams() -> Iterator[None]:
    """Set up the encoding of the standard streams, and replace closed ones, which are None, by files.

    Reading or writing a closed stream is an error, as in other programs, except that messages to stderr are lost.
    Without a file at its number, the next file that is opened would be the standard stream of the libraries.
    """
    replacements = {"stdin": ("r", os.O_WRONLY), "stdout": ("w", os.O_RDONLY), "stderr": ("w", os.O_WRONLY)}
    with contextlib.ExitStack() as at_end:
        for name, (mode, flags) in replacements.items():
            if getattr(sys, name) is None:
                stream = os.fdopen(os.open(os.devnull, flags), mode, encoding="utf-8")
                at_end.callback(stream.close)
                at_end.callback(setattr, sys, name, None)
                setattr(sys, name, stream)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                if not stream.isatty():
                    stream.reconfigure(encoding="utf-8")
                stream.reconfigure(errors="backslashreplace")  # escape what a terminal cannot show
        yield
        try:
            sys.stderr.flush()
        except OSError:
            _discard(sys.stderr)


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        name = error.filename or ("standard output" if error.errno in WRITE_ERRORS else "")
        return f"{name}: {error.strerror}" if name else error.strerror
    return str(error) or type(error).__name__


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="minilm-np", description="Sentence embeddings of all-MiniLM-L6-v2 on the CPU, without PyTorch."
    )
    parser.add_argument("--version", action="version", version=f"minilm-np {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2]
        subparser = subparsers.add_parser(name, help=command.HELP, description=command.HELP)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser
