"""`minilm-np lab`: make every known mistake of a port, and show what it does to a few texts."""

from __future__ import annotations

import argparse
import sys

from minilm_np.commands.common import check_outputs, path_argument

HELP = "Make every known mistake of a port on a few texts: which of them does a cosine show? About half a minute."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "texts",
        nargs="*",
        metavar="TEXT",
        help="2 to 20 texts: the first two are compared, and all others are ranked by their similarity to the first "
        "(default: six examples)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=path_argument,
        metavar="FILE",
        help="write an HTML page that needs no network, instead of the table; - is standard output",
    )


def run(arguments: argparse.Namespace) -> None:
    if len(arguments.texts) == 1:
        raise ValueError("TEXT: expected two or more texts, got 1")
    check_outputs(arguments, "output")
    from tqdm import tqdm

    from minilm_np.study.lab import EXAMPLES, laboratory, require_jinja2

    if arguments.output is not None:
        require_jinja2()  # before half a minute of work
    with tqdm(desc="lab", unit=" mistakes", leave=False, disable=not sys.stderr.isatty()) as bar:
        made = laboratory(arguments.texts or EXAMPLES, tried=lambda _: bar.update())
    if arguments.output is None:
        print(made)
    elif str(arguments.output) == "-":
        print(made.to_html())
    else:
        made.save(arguments.output)
        print(made.lesson)
