"""`minilm-np trace`: write a page on which every number of the forward pass can be looked at."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

from minilm_np.commands.common import add_model_option, check_outputs, load_model, path_argument

HELP = "Write one offline HTML page that shows the model thinking about one or two texts."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("texts", nargs="+", metavar="TEXT", help="one text, or two to compare")
    parser.add_argument(
        "-o",
        "--output",
        type=path_argument,
        default=Path("trace.html"),
        metavar="FILE",
        help="- is standard output (default: trace.html)",
    )
    parser.add_argument(
        "--max-size",
        type=float,
        default=4.0,
        metavar="MB",
        help="largest size of the page; the widest stages are left out until it fits (default: 4)",
    )
    add_model_option(parser)


def run(arguments: argparse.Namespace) -> None:
    texts = arguments.texts
    if not 0 < arguments.max_size < math.inf:
        raise ValueError(f"--max-size: expected a number of MB above 0, got {arguments.max_size:g}")
    if len(texts) > 2:
        raise ValueError(f"TEXT: expected one or two texts, got {len(texts)}")
    check_outputs(arguments, "output")
    from minilm_np.study import trace
    from minilm_np.study.page import require_extra

    require_extra()  # before seconds of work
    model = load_model(arguments.model, len(texts))
    try:
        page = trace(model, *texts, max_size=round(arguments.max_size * 1e6))
    except ValueError as error:
        raise ValueError(str(error).replace("max_size:", "--max-size:")) from None
    if str(arguments.output) == "-":
        sys.stdout.write(page.to_html())
        return
    page.save(arguments.output)
    size = arguments.output.stat().st_size
    print(f"{arguments.output}: {size / 1e6:.1f} MB")
    if page.dropped:
        print(f"left out to stay below {arguments.max_size:g} MB: {', '.join(page.dropped)}")
