"""`minilm-np search`: print the lines of a file that are most similar to a query."""

from __future__ import annotations

import argparse
import sys

from minilm_np.commands.common import (
    add_dtype_option,
    add_model_option,
    check_at_least_one,
    load_model,
    name_argument,
    read_lines,
)

HELP = "Print the lines of a file that are most similar to a query: similarity, line number, line."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "corpus", type=name_argument, metavar="CORPUS", help="UTF-8 text, one text per line; - is standard input"
    )
    parser.add_argument("query", metavar="QUERY", help="the text to search for")
    parser.add_argument("-k", type=int, default=10, metavar="K", help="number of lines to print (default: 10)")
    add_dtype_option(parser)
    add_model_option(parser)


def run(arguments: argparse.Namespace) -> None:
    import numpy as np

    from minilm_np.util import cos_sim

    check_at_least_one("-k", arguments.k)
    texts = read_lines(arguments.corpus)
    if not texts:
        raise ValueError(f"CORPUS: expected at least one line, got none in {arguments.corpus}")
    model = load_model(arguments.model, len(texts), arguments.dtype)
    corpus = model.encode(texts, show_progress_bar=sys.stderr.isatty())
    scores = cos_sim(model.encode(arguments.query).astype("float64"), corpus)[0]
    # Scores of equal texts can differ in the last bits, so rank by the printed score; ties keep the order of the lines.
    for i in np.argsort(-np.round(scores, 6), kind="stable")[: arguments.k]:
        print(f"{scores[i]:.6f}\t{i + 1}\t{texts[i]}")
