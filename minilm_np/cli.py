"""The program `minilm-np`: it prints results to stdout, and an error as one line to stderr with exit code 2."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from minilm_np import __version__
from minilm_np.commands import compile, crosscheck, encode, evaluate, fetch, goldens, info, search, similarity

COMMANDS = (similarity, encode, search, crosscheck, goldens, evaluate, fetch, compile, info)
CLOSED_PIPE = 128 + 13  # the exit code that a shell reports for a program ended by SIGPIPE
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
        0 for success, 1 if crosscheck or evaluate find a difference, 2 for an error, 130 for Ctrl-C, 141 for a closed
        pipe.
    """
    arguments = _parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            if not stream.isatty():
                stream.reconfigure(encoding="utf-8")
            stream.reconfigure(errors="backslashreplace")  # escape what a terminal cannot show
    try:
        code: int | None = arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes again at exit
        return CLOSED_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except (OSError, ValueError, TypeError, ImportError, MemoryError, NotImplementedError) as error:
        print(f"minilm-np: error: {_message(error)}", file=sys.stderr)
        return 2
    return code or 0


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
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


if __name__ == "__main__":
    sys.exit(main())
