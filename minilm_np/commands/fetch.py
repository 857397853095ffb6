"""`minilm-np fetch`: download the model's files."""

from __future__ import annotations

import argparse

from minilm_np.commands.common import path_argument

HELP = "Verify the model's files, after downloading them if they are missing; print their folder."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--to",
        type=path_argument,
        metavar="DIR",
        help="folder for the files (default: weights/ in a checkout, else the cache folder)",
    )


def run(arguments: argparse.Namespace) -> None:
    from minilm_np import weights

    if arguments.to is not None and arguments.to.exists() and not arguments.to.is_dir():
        raise ValueError(f"--to: expected a folder, got the file {arguments.to}")
    place = weights.find() if arguments.to is None else None
    if place:
        weights.verify(place.folder)
    print(place.folder if place else weights.fetch(arguments.to))
