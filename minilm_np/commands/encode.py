"""`minilm-np encode`: write the embedding of every line of a file."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from minilm_np.commands.common import (
    add_dtype_option,
    add_model_option,
    check_at_least_one,
    check_outputs,
    load_model,
    name_argument,
    path_argument,
    read_lines,
    write_atomically,
)

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Embeddings = npt.NDArray[np.float32]

HELP = "Encode every line of a file; row i of the result is the embedding of line i."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        type=name_argument,
        nargs="?",
        default="-",
        metavar="FILE",
        help="UTF-8 text, one text per line; - is standard input (default)",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=path_argument,
        metavar="OUT",
        help=".npy or .jsonl file (default: jsonl to standard output)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=32,
        metavar="N",
        help="number of texts that the NumPy op set computes together (default: 32)",
    )
    add_dtype_option(parser)
    add_model_option(parser)


def run(arguments: argparse.Namespace) -> None:
    output: Path | None = arguments.output
    if output is not None and output.suffix not in (".npy", ".jsonl"):
        raise ValueError(f"--output: expected a name that ends in .npy or .jsonl, got {str(output)!r}")
    check_outputs(arguments, "output")
    check_at_least_one("--batch-size", arguments.batch_size)
    texts = read_lines(arguments.file)
    model = load_model(arguments.model, len(texts), arguments.dtype)
    embeddings = model.encode(texts, batch_size=arguments.batch_size, show_progress_bar=sys.stderr.isatty())
    embeddings = embeddings.reshape(len(texts), -1 if texts else model.config.hidden_size).astype("float32")
    if output is None:
        _write_jsonl(sys.stdout.buffer, texts, embeddings)
    elif output.suffix == ".jsonl":
        write_atomically(output, lambda file: _write_jsonl(file, texts, embeddings))
    else:
        write_atomically(output, lambda file: _write_npy(file, embeddings))


def _write_npy(file: BinaryIO, embeddings: Embeddings) -> None:
    import numpy as np

    np.save(file, embeddings)


def _write_jsonl(file: BinaryIO, texts: list[str], embeddings: Embeddings) -> None:
    for text, row in zip(texts, embeddings, strict=True):
        embedding = [float(str(x)) for x in row]  # str of a float32 has only the digits that restore it
        file.write(json.dumps({"text": text, "embedding": embedding}, ensure_ascii=False).encode() + b"\n")
    file.flush()
