"""`minilm-np quantize`: save a model with the weights of its dense layers in int8."""

from __future__ import annotations

import argparse

from minilm_np.commands.common import add_model_option, path_argument

HELP = "Save a model with the weights of its dense layers in int8; load it with --dtype int8."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o",
        "--output",
        type=path_argument,
        required=True,
        metavar="DIR",
        help="folder to create; it must not be the model's own",
    )
    add_model_option(parser)


def run(arguments: argparse.Namespace) -> None:
    from minilm_np import SentenceTransformer

    model = SentenceTransformer(arguments.model, backend="numpy")
    before = sum(file.stat().st_size for file in model.place.folder.glob("*.safetensors"))
    model.save_pretrained(arguments.output, dtype="int8")
    after = (arguments.output / "model.safetensors").stat().st_size
    print(f"{arguments.output}: {after / 1e6:.1f} MB of weights; before: {before / 1e6:.1f} MB")
