"""`minilm-np similarity`: print how similar texts are."""

from __future__ import annotations

import argparse

from minilm_np.commands.common import add_model_option, load_model

HELP = "Print the cosine similarity of two texts, or of every pair of several texts."
MAX_DIGITS = 17  # float64 has no more
MAX_TEXT_WIDTH = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="two or more texts")
    parser.add_argument(
        "--digits",
        type=int,
        default=6,
        metavar="N",
        help="decimals to print, 1 to 17 (default: 6, of which the last may differ between machines)",
    )
    add_model_option(parser)


def run(arguments: argparse.Namespace) -> None:
    texts, digits = arguments.texts, arguments.digits
    if len(texts) < 2:
        raise ValueError("TEXT: expected two or more texts, got 1")
    if not 1 <= digits <= MAX_DIGITS:
        raise ValueError(f"--digits: expected 1 to {MAX_DIGITS}, got {digits}")
    from minilm_np.util import cos_sim

    embeddings = load_model(arguments.model, len(texts)).encode(texts).astype("float64")
    scores = cos_sim(embeddings, embeddings)
    if len(texts) == 2:
        print(f"{scores[0, 1]:.{digits}f}")
        return
    width = digits + 4
    print("".join(f"{i:>{width}}" for i in range(1, len(texts) + 1)))
    for i, text in enumerate(texts):
        print("".join(f"{score:{width}.{digits}f}" for score in scores[i]), f"  {i + 1} {_shorten(text)}")


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= MAX_TEXT_WIDTH else line[: MAX_TEXT_WIDTH - 3] + "..."
