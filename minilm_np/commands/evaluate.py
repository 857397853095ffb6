"""`minilm-np evaluate`: compute the model card's MTEB scores."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from typing import Any

from minilm_np.commands.common import (
    API_KEY_HELP,
    add_dtype_option,
    add_endpoint_options,
    add_model_option,
    check_outputs,
    name_argument,
    open_target,
    path_argument,
    write_json_and_print,
)

HELP = "Compute the MTEB scores of the model card and compare them with the card's."
MODEL_BATCH_SIZE = 4096  # texts
TARGET_BATCH_SIZE = 32  # texts; endpoints accept at least 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Exit code: 0 if every score equals the card's or the one that a later MTEB release stored for this model, "
        f"1 if a score differs, 2 if a score cannot be computed. {API_KEY_HELP}"
    )
    parser.add_argument(
        "tasks", nargs="*", metavar="TASK", help="row of the card (default: all rows whose data is there)"
    )
    parser.add_argument("--list", action="store_true", help="list the card's 95 rows and the data formats, and exit")
    parser.add_argument(
        "--data",
        type=path_argument,
        metavar="DIR",
        help="folder with the data (default: the cache of the datasets library)",
    )
    parser.add_argument("--backend", metavar="B", help="op set: auto, numba or numpy (default: auto)")
    add_dtype_option(parser)
    parser.add_argument(
        "--encoder",
        type=name_argument,
        metavar="TARGET",
        help="evaluate another encoder: package.module:function (takes a list of str); http://.../embed or "
        "http://.../v1/embeddings; or a .onnx file",
    )
    parser.add_argument(
        "--cache", type=path_argument, metavar="DIR", help="store embeddings in this folder and reuse them"
    )
    parser.add_argument(
        "--json", type=path_argument, metavar="FILE", help="write all measures as JSON; - is standard output"
    )
    parser.add_argument("--measures", action="store_true", help="print every measure, not only each task's main one")
    add_endpoint_options(parser)
    add_model_option(parser)


def run(arguments: argparse.Namespace) -> int:
    from minilm_np.evaluate import data, report
    from minilm_np.evaluate.run import Result, evaluate, mean_of
    from minilm_np.evaluate.tasks import Task, all_tasks, task_named

    named = [task_named(name) for name in arguments.tasks]
    if arguments.list:
        listed: data.Source | None = None
        with contextlib.suppress(ImportError):
            listed = data.Files(arguments.data) if arguments.data else data.Datasets()
        print(report.listing(named or all_tasks().values(), listed))
        return 0
    check_outputs(arguments, "json")
    source: data.Source = data.Files(arguments.data) if arguments.data else data.Datasets()
    tasks = named or [task for task in all_tasks().values() if source.has(task)]
    if not tasks:
        raise ValueError(f"--data: {arguments.data or 'the cache of datasets'} has no data for any task; see --list")
    for task in named:  # a task without data must not fail after hours of work
        data.check(source, task)
    encode, batch_size, description = _encoder(arguments)
    from tqdm import tqdm

    computed: dict[str, Result] = {}

    def result_of(task: Task) -> Result:
        if task.name not in computed:
            if task.parts:
                computed[task.name] = mean_of(task, [result_of(task_named(part)) for part in task.parts])
            else:
                with tqdm(desc=task.name, unit=" texts", leave=False, disable=not sys.stderr.isatty()) as bar:
                    computed[task.name] = evaluate(encode, task, source, batch_size=batch_size, on_texts=bar.update)
        return computed[task.name]

    results: list[Result] = []
    try:
        for task in tasks:
            results.append(result_of(task))
    finally:  # if a task fails, keep the results of those before it
        if results:
            written = {"encoder": description, "results": [result.to_dict() for result in results]}
            write_json_and_print(
                arguments.json,
                json.dumps(written, indent=1, allow_nan=False),
                report.table(results, all_measures=arguments.measures),
            )
    return 1 if any(result.verdict() == "differs" for result in results) else 0


def _encoder(arguments: argparse.Namespace) -> tuple[Any, int, dict[str, Any]]:
    """Return the encoder, its batch size in texts, and its description for the JSON file."""
    if arguments.encoder is not None:
        for option in ("cache", "model", "backend", "dtype"):
            if getattr(arguments, option) is not None:
                raise ValueError(f"--{option}: not allowed with --encoder")
        target = open_target(arguments.encoder, arguments)
        if not target.encodes:
            raise ValueError(f"--encoder: expected an encoder of texts, got the file of results {arguments.encoder}")
        return target.encode, TARGET_BATCH_SIZE, {"encoder": target.name}
    import numpy as np

    from minilm_np import SentenceTransformer, __version__
    from minilm_np.evaluate.cache import cached, fingerprint

    options: dict[str, Any] = {"backend": arguments.backend or "auto", "dtype": arguments.dtype or "float32"}
    model = SentenceTransformer(*([] if arguments.model is None else [arguments.model]), **options)
    description = {
        "model": arguments.model or "sentence-transformers/all-MiniLM-L6-v2",
        "fingerprint": fingerprint(model),
        "backend": model.backend,
        "dtype": model.compute_dtype,
        "minilm_np": __version__,
        "numpy": np.__version__,
    }
    if arguments.cache is None:
        return model, MODEL_BATCH_SIZE, description
    encode = cached(lambda texts: model.encode(texts, truncation="ignore"), arguments.cache, description["fingerprint"])
    return encode, MODEL_BATCH_SIZE, description
