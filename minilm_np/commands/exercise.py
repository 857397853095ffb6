"""`minilm-np exercise`: write the encoder with six holes, and check an answer."""

from __future__ import annotations

import argparse

from minilm_np.commands.common import path_argument

HELP = "Write an exercise, the encoder in plain NumPy with six holes, or check an answer to it."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Exit code: 0 if all holes are right, 1 if one is wrong or not written yet, 2 if there is nothing to check. "
        "--check runs DIR/encoder.py."
    )
    parser.add_argument("folder", type=path_argument, metavar="DIR", help="a new or empty folder, or the one to check")
    parser.add_argument("--check", action="store_true", help="check DIR/encoder.py and say what is wrong in it")


def run(arguments: argparse.Namespace) -> int:
    from minilm_np.study.exercises import check_all, write_exercise

    if not arguments.check:
        folder = write_exercise(arguments.folder)
        print(f"{folder / 'README.md'} has the instructions, {folder / 'encoder.py'} the six holes.")
        return 0
    results = check_all(arguments.folder)
    names = {result.name: "whole model" if result.name == "whole" else result.name for result in results}
    width = max(map(len, names.values()))
    for result in results:
        print(f"{names[result.name]:<{width}}  {result.message}")
    return 0 if all(result.verdict == "right" for result in results) else 1
