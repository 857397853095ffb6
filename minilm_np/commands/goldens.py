"""`minilm-np goldens`: write reference values of every stage to files."""

from __future__ import annotations

import argparse

from minilm_np.commands.common import path_argument

HELP = (
    "Write a golden bundle: reference values of every stage of all-MiniLM-L6-v2, in files that any language can read."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=path_argument, metavar="DIR", help="a new or empty folder")


def run(arguments: argparse.Namespace) -> None:
    from minilm_np.crosscheck.goldens import write_goldens

    print(write_goldens(arguments.folder))
