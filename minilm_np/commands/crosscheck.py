"""`minilm-np crosscheck`: check a port of the model."""

from __future__ import annotations

import argparse
import json
import math
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from minilm_np.commands.common import (
    API_KEY_HELP,
    add_endpoint_options,
    check_at_least_one,
    check_outputs,
    load_model,
    name_argument,
    open_target,
    path_argument,
    read_lines,
    write_json_and_print,
    write_text,
)
from minilm_np.files import replaced

if TYPE_CHECKING:
    from minilm_np.targets import Target

HELP = "Check a port of the model: is it right? If not, at which stage does it first differ, and why?"
CORPUS_BATCH_SIZE = 32  # texts; endpoints accept at least 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = f"Exit code: 0 if the port is right, 1 if it differs, 2 if it cannot be compared. {API_KEY_HELP}"
    parser.add_argument(
        "target",
        type=name_argument,
        nargs="?",
        metavar="TARGET",
        help="the port to check: package.module:function (takes a list of str); http://.../embed or "
        "http://.../v1/embeddings; a .onnx file; or a .npy, .npz, .safetensors, .json or .jsonl file with its results "
        "for the texts that --texts prints",
    )
    parser.add_argument("--texts", action="store_true", help="print the texts to encode, as a JSON list, and exit")
    parser.add_argument(
        "--json", type=path_argument, metavar="FILE", help="write the report as JSON; - is standard output"
    )
    parser.add_argument("--junit", type=path_argument, metavar="FILE", help="write the report as JUnit XML")
    parser.add_argument(
        "--plot", type=path_argument, metavar="FILE", help="plot the error of each stage to a .png, .svg or .html file"
    )
    parser.add_argument(
        "--no-causes",
        action="store_true",
        help="do not search for the cause of a difference (saves up to half a minute)",
    )
    parser.add_argument(
        "--thorough",
        action="store_true",
        help="search for the cause without a limit on time: all pairs of mistakes, some minutes",
    )
    add_endpoint_options(parser)
    parser.add_argument(
        "--corpus",
        type=name_argument,
        metavar="FILE",
        help="compare search results on the lines of this file instead of the stages",
    )
    parser.add_argument(
        "--against",
        type=name_argument,
        metavar="TARGET",
        help="with --corpus: the port to compare with (default: minilm_np)",
    )
    parser.add_argument(
        "-k", type=int, default=10, metavar="K", help="with --corpus: number of nearest lines to compare (default: 10)"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.7,
        metavar="C",
        help="with --corpus: two lines are similar if their cosine is at least C (default: 0.7)",
    )


def run(arguments: argparse.Namespace) -> int:
    from minilm_np.crosscheck.compare import crosscheck, probe_texts
    from minilm_np.crosscheck.plot import SUFFIXES
    from minilm_np.crosscheck.truth import STAGE_ROWS
    from minilm_np.targets import FINAL_STAGE, number_of_rows

    if arguments.texts:
        print(json.dumps(probe_texts(), ensure_ascii=False, indent=1))
        return 0
    check_outputs(arguments, "json", "junit", "plot")
    if arguments.plot is not None and arguments.plot.suffix not in SUFFIXES:
        raise ValueError(f"--plot: expected a name that ends in {', '.join(SUFFIXES)}, got {str(arguments.plot)!r}")
    if arguments.plot is not None and not find_spec("matplotlib"):
        raise ImportError("--plot: needs matplotlib, which is not installed")
    if arguments.target is None:
        raise ValueError("TARGET: expected a port to check, or the option --texts; see --help")
    if arguments.corpus is not None:
        return _compare_on_corpus(arguments)
    if arguments.against is not None:
        raise ValueError("--against: only allowed with --corpus")
    # The cases of a file are those of a golden bundle: all probe texts, or only those with stages.
    target = open_target(arguments.target, arguments, (range(len(probe_texts())), STAGE_ROWS), probe_texts())
    if target.encodes:
        report = crosscheck(target.encode, causes=not arguments.no_causes, thorough=arguments.thorough)
    else:
        stages = dict(target.stages)
        if not stages:
            raise ValueError(f"{target.name}: expected the results of at least one stage, got none")
        # Embeddings of all probe texts are checked as results of `encode`; those of the texts with stages as a stage,
        # if the file calls them so.
        of_stage_texts = target.named and number_of_rows(stages.get(FINAL_STAGE)) == len(STAGE_ROWS)
        embeddings = None if of_stage_texts else stages.pop(FINAL_STAGE, None)
        report = crosscheck(embeddings, stages or None, causes=not arguments.no_causes, thorough=arguments.thorough)
    try:
        if arguments.plot is not None:
            from minilm_np.crosscheck.plot import plot

            with replaced(arguments.plot) as part:
                plot(report, part)
        if arguments.junit is not None:
            write_text(arguments.junit, report.to_junit())
    finally:
        write_json_and_print(arguments.json, report.to_json(), str(report))
    return 0 if report.ok else 1


def _compare_on_corpus(arguments: argparse.Namespace) -> int:
    """Compare the search results of two ports on the lines of a user's file."""
    from minilm_np.crosscheck.compare import encode_in_batches
    from minilm_np.crosscheck.search_equivalence import equivalence
    from minilm_np.targets import FINAL_STAGE, number_of_rows

    for option in ("junit", "plot"):
        if getattr(arguments, option) is not None:
            raise ValueError(f"--{option}: not allowed with --corpus; use --json")
    check_at_least_one("-k", arguments.k)
    if not math.isfinite(arguments.threshold):
        raise ValueError(f"--threshold: expected a cosine, got {arguments.threshold}")
    texts = read_lines(arguments.corpus)
    if len(texts) < 2:
        raise ValueError(f"--corpus: expected two or more lines, got {len(texts)} in {arguments.corpus}")

    def open_file_or_port(name: str) -> Target:
        target = open_target(name, arguments, (range(len(texts)),), texts)
        if not target.encodes:
            others = [stage for stage in target.stages if stage != FINAL_STAGE]
            if others or not target.stages:
                raise ValueError(f"{name}: expected {FINAL_STAGE}, got {', '.join(others) or 'nothing'}")
            rows = number_of_rows(target.stages[FINAL_STAGE])
            if rows != len(texts):
                raise ValueError(f"{name}: expected {len(texts)} vectors, one for each line, got {rows}")
        return target

    def embeddings_of(target: Target | None) -> Any:
        if target is None:
            return load_model(None, len(texts)).encode(texts, truncation="ignore")
        if not target.encodes:
            return target.stages[FINAL_STAGE]
        batches = [texts[i : i + CORPUS_BATCH_SIZE] for i in range(0, len(texts), CORPUS_BATCH_SIZE)]
        return encode_in_batches(target.name, target.encode, batches)

    target = open_file_or_port(arguments.target)
    against = None if arguments.against is None else open_file_or_port(arguments.against)
    result = equivalence(embeddings_of(against), embeddings_of(target), k=arguments.k, threshold=arguments.threshold)
    write_json_and_print(arguments.json, json.dumps(result.to_dict(), indent=1), str(result))
    return 0 if result.go else 1
