"""`minilm-np train`: fine-tune the model on pairs of texts."""

from __future__ import annotations

import argparse
import sys

from minilm_np.commands.common import add_model_option, name_argument, path_argument

HELP = "Train the model on pairs of texts, by the procedure of the model card. The result is a model folder."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data",
        type=name_argument,
        nargs="+",
        metavar="DATA",
        help='.jsonl or .jsonl.gz files with a line ["text", "similar text"] for each pair, a folder of them, or a '
        "data_config.json with names and weights",
    )
    parser.add_argument(
        "-o", "--output", type=path_argument, required=True, metavar="DIR", help="a new folder for the trained model"
    )
    add_model_option(parser)
    options: tuple[tuple[str, type, object, str], ...] = (
        ("--steps", int, 100_000, "number of steps"),
        ("--batch-size", int, 1024, "examples in a batch"),
        ("--learning-rate", float, 2e-5, "largest learning rate"),
        ("--warmup-steps", int, 500, "steps in which the learning rate rises"),
        ("--max-seq-length", int, 128, "word pieces read of each text in training"),
        ("--weight-decay", float, 0.0, "weight decay of AdamW"),
        ("--max-grad-norm", float, 1.0, "norm to which the gradients are clipped"),
        ("--adam-beta1", float, 0.9, "AdamW's beta 1"),
        ("--adam-beta2", float, 0.999, "AdamW's beta 2"),
        ("--adam-epsilon", float, 1e-8, "AdamW's epsilon"),
        ("--datasets-per-batch", int, 1, "draws of a data set that fill a batch"),
        ("--seed", int, 42, "decides the batches and the dropout masks"),
        ("--save-steps", int, 500, "steps between two checkpoints"),
    )
    for name, kind, default, text in options:
        parser.add_argument(name, type=kind, default=default, metavar="N", help=f"{text} (default: {default})")
    parser.add_argument("--dropout", type=float, metavar="P", help="probability (default: as in config.json; 0: off)")
    parser.add_argument("--scale", type=float, default=20.0, metavar="X", help="factor of the cosines (default: 20)")
    parser.add_argument(
        "--mini-batch-size", type=int, metavar="N", help="texts kept in memory (default: by their lengths)"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="default: the CPUs that the process may use")
    parser.add_argument(
        "--evaluate",
        type=name_argument,
        metavar="FILE",
        help="held-out examples: accuracy@1 and MRR@10 of finding the second text, accuracy of triplets, or for pairs "
        "with scores the correlation with them (scores of 0 and 1: classification)",
    )
    parser.add_argument(
        "--eval-steps", type=int, metavar="N", help="steps between two evaluations (default: first and last only)"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in DIR, from its last checkpoint if there is one"
    )


def run(arguments: argparse.Namespace) -> None:
    from minilm_np import SentenceTransformer
    from minilm_np.training import train

    name = [] if arguments.model is None else [arguments.model]
    model = SentenceTransformer(*name)
    options = {name: value for name, value in vars(arguments).items() if name in (train.__kwdefaults__ or {})}
    data = arguments.data[0] if len(arguments.data) == 1 else arguments.data
    history = train(model, data, steps=arguments.steps, show_progress_bar=sys.stderr.isatty(), **options)
    print(f"{arguments.output}: {len(history.steps)} steps, loss {history.losses[0]:.4f} to {history.losses[-1]:.4f}")
    for line in history.evaluations[:1] + history.evaluations[1:][-1:]:
        scores = ", ".join(f"{name} {value:.4f}" for name, value in line["scores"].items())
        print(f"step {line['step']}: {scores}")
