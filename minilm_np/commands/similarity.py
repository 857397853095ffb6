"""`minilm-np similarity`: print how similar texts are."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from typing import TYPE_CHECKING

from minilm_np.commands.common import add_dtype_option, add_model_option, load_model

if TYPE_CHECKING:
    from minilm_np.study import TokenPairs

HELP = "Print the cosine similarity of two texts, or of every pair of several texts."
MAX_DIGITS = 17  # float64 has no more
MAX_TEXT_WIDTH = 60
MAX_NAME_WIDTH = 12  # of a word in the table of --explain
LARGEST = 5  # pairs that --explain names
# Backgrounds of 256-color terminals with a readable foreground, from a large negative share to a large positive one.
SHADES = ("\033[97;48;5;19m", "\033[97;48;5;25m", "\033[30;48;5;153m", "", "\033[30;48;5;223m", "\033[30;48;5;215m",
          "\033[97;48;5;130m")  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="two or more texts")
    parser.add_argument(
        "--digits",
        type=int,
        default=6,
        metavar="N",
        help="decimals to print, 1 to 17 (default: 6, of which the last may differ between machines)",
    )
    parser.add_argument(
        "--explain", action="store_true", help="also show what each pair of words adds to the similarity of two texts"
    )
    add_dtype_option(parser)
    add_model_option(parser)


def run(arguments: argparse.Namespace) -> None:
    texts, digits = arguments.texts, arguments.digits
    if len(texts) < 2:
        raise ValueError("TEXT: expected two or more texts, got 1")
    if not 1 <= digits <= MAX_DIGITS:
        raise ValueError(f"--digits: expected 1 to {MAX_DIGITS}, got {digits}")
    if arguments.explain and len(texts) != 2:
        raise ValueError(f"--explain: expected two texts, got {len(texts)}")
    from minilm_np.util import cos_sim

    model = load_model(arguments.model, len(texts), arguments.dtype)
    embeddings = model.encode(texts).astype("float64")
    scores = cos_sim(embeddings, embeddings)
    if len(texts) == 2:
        print(f"{scores[0, 1]:.{digits}f}")
        if arguments.explain:
            from minilm_np.study import token_pairs

            explain(token_pairs(model, *texts).words())
        return
    width = digits + 4
    print("".join(f"{i:>{width}}" for i in range(1, len(texts) + 1)))
    for i, text in enumerate(texts):
        print("".join(f"{score:{width}.{digits}f}" for score in scores[i]), f"  {i + 1} {_shorten(text)}")


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_TEXT_WIDTH else line[: MAX_TEXT_WIDTH - 3] + "..."


def explain(pairs: TokenPairs) -> None:
    """Print the shares of all pairs of words, with sums, if the terminal is wide enough, and the largest shares."""
    width, label = 8, min(MAX_NAME_WIDTH, max(len("sum"), *(len(name) for name in pairs.rows)))
    is_wide_enough = label + width * (len(pairs.columns) + 1) <= shutil.get_terminal_size().columns
    if is_wide_enough or not sys.stdout.isatty():
        has_colors = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        largest = max(abs(float(pairs.values.max())), abs(float(pairs.values.min())), 1e-9)

        def cell(value: float) -> str:
            shade = SHADES[round(value / largest * 3) + 3] if has_colors else ""
            return f"{shade}{value:{width}.4f}" + ("\033[0m" if shade else "")

        print("\n" + " " * label + "".join(_cut(name, width - 1).rjust(width) for name in (*pairs.columns, "sum")))
        for name, row, total in zip(pairs.rows, pairs.values.tolist(), pairs.row_sums.tolist(), strict=True):
            print(_cut(name, label).ljust(label) + "".join(map(cell, row)) + f"{total:{width}.4f}")
        sums = "".join(f"{total:{width}.4f}" for total in (*pairs.column_sums.tolist(), pairs.cosine))
        print("sum".ljust(label) + sums)
    else:
        print(f"\nThe table of all pairs needs {label + width * (len(pairs.columns) + 1)} columns.")
    names = ", ".join(f'"{a}" with "{b}" ({value:.4f})' for a, b, value in pairs.largest(LARGEST))
    print(f"\nThe largest shares: {names}.")
    print("A share is exact arithmetic over contextual vectors. It is not how much a word causes.")


def _cut(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 1] + "\u2026"
