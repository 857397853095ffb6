"""The command `minilm-np`. An error is a message on stderr and exit code 2; results go to stdout."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from minilm_np import SentenceTransformer

    Embeddings = npt.NDArray[np.float32]

CLOSED_PIPE = 128 + 13  # what a shell reports for a program that SIGPIPE ended
INTERRUPTED = 128 + 2
FEW = 100
MOST_SECONDS = 86400  # a socket takes no 1e20


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, 2 for an error, 130 for Ctrl-C, 141 for a closed pipe.

    crosscheck and evaluate return 1 where something differs.
    """
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int | None] = arguments.command
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            if not stream.isatty():
                stream.reconfigure(encoding="utf-8")
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character shows its code
    try:
        code = command(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter flushes again at exit
        return CLOSED_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except (OSError, ValueError, TypeError, ImportError, MemoryError, NotImplementedError) as error:
        print(f"minilm-np: error: {_one_line(error)}", file=sys.stderr)
        return 2
    return code or 0


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _parser() -> argparse.ArgumentParser:
    from minilm_np import __version__

    parser = argparse.ArgumentParser(prog="minilm-np", description="Sentence embeddings of all-MiniLM-L6-v2.")
    parser.add_argument("--version", action="version", version=f"minilm-np {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command: Callable[[argparse.Namespace], int | None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        return sub

    def add_model(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--model", metavar="DIR", help="folder of another checkpoint (default: all-MiniLM-L6-v2)")

    similarity = add("similarity", _similarity, "Cosine similarity of two texts, or of each pair of several.")
    similarity.add_argument("texts", nargs="+", metavar="TEXT")
    encode = add("encode", _encode, "Embed every line of a file: row i of the result is line i.")
    encode.add_argument("file", nargs="?", default="-", metavar="FILE", help="UTF-8 text; - or nothing: standard input")
    encode.add_argument("-o", "--output", type=Path, metavar="OUT", help=".npy or .jsonl (default: jsonl on stdout)")
    encode.add_argument("--batch-size", type=int, default=32, metavar="N", help="texts computed at once (default: 32)")
    search = add("search", _search, "The lines of a file that are nearest to a query: similarity, line number, line.")
    search.add_argument("corpus", metavar="CORPUS", help="UTF-8 text, a line is a text; - is standard input")
    search.add_argument("query", metavar="QUERY")
    search.add_argument("-k", type=int, default=10, metavar="K", help="how many lines (default: 10)")
    check = add(
        "crosscheck",
        _crosscheck,
        "Is another backend right? If not, where does it first go wrong, and which mistake is it? "
        "Exit code: 0 it is, 1 it differs, 2 it could not be compared.",
    )
    check.add_argument(
        "target",
        nargs="?",
        metavar="TARGET",
        help="package.module:function of a list of str; .npy, .npz, .safetensors, .json or .jsonl with its results for "
        "the texts of --texts; http://.../embed or http://.../v1/embeddings; a .onnx file",
    )
    check.add_argument("--texts", action="store_true", help="print the texts to embed, as a JSON list, and stop")
    check.add_argument("--json", type=Path, metavar="FILE", help="write the report as JSON; - is standard output")
    check.add_argument("--junit", type=Path, metavar="FILE", help="write the report as JUnit XML")
    check.add_argument("--plot", type=Path, metavar="FILE", help="draw the error's growth: .png, .svg or .html")
    check.add_argument("--no-causes", action="store_true", help="do not look for the mistake (saves some seconds)")
    check.add_argument("--timeout", type=float, default=30.0, metavar="S", help="for each HTTP answer (default: 30)")
    check.add_argument("--model-name", default="all-MiniLM-L6-v2", metavar="NAME", help="for /v1/embeddings")
    check.add_argument("--corpus", metavar="FILE", help="compare on your own lines instead: neighbours and pairs")
    check.add_argument("--against", metavar="TARGET", help="with --corpus: another backend (default: minilm_np itself)")
    check.add_argument("-k", type=int, default=10, metavar="K", help="with --corpus: nearest lines (default: 10)")
    check.add_argument("--threshold", type=float, default=0.7, metavar="C", help="with --corpus: cosine (default: 0.7)")
    goldens = add("goldens", _goldens, "Write the golden bundle: what every stage should be, for any language.")
    goldens.add_argument("folder", type=Path, metavar="DIR", help="a new or empty folder")
    evaluation = add(
        "evaluate",
        _evaluate,
        "The model card's MTEB rows, computed here. Exit code: 0 all as on the card, or as a later mteb "
        "has stored it; 1 one differs; 2 it could not be computed.",
    )
    evaluation.add_argument("tasks", nargs="*", metavar="TASK", help="rows of the card (default: all that have data)")
    evaluation.add_argument("--list", action="store_true", help="show the card's 95 rows and the formats of data")
    evaluation.add_argument("--data", type=Path, metavar="DIR", help="default: what the datasets library has cached")
    evaluation.add_argument("--backend", metavar="B", help="auto, numba or numpy (default: auto)")
    evaluation.add_argument("--dtype", metavar="D", help="float32 or float64 (default: float32)")
    evaluation.add_argument(
        "--encoder",
        metavar="TARGET",
        help="evaluate another: package.module:function of a list of str; http://.../embed or "
        "http://.../v1/embeddings; a .onnx file",
    )
    evaluation.add_argument("--cache", type=Path, metavar="DIR", help="keep embeddings there, by model and text")
    evaluation.add_argument("--json", type=Path, metavar="FILE", help="write all measures; - is standard output")
    evaluation.add_argument("--measures", action="store_true", help="show every measure, not only the main ones")
    evaluation.add_argument(
        "--timeout", type=float, default=30.0, metavar="S", help="for each HTTP answer (default: 30)"
    )
    evaluation.add_argument("--model-name", default="all-MiniLM-L6-v2", metavar="NAME", help="for /v1/embeddings")
    fetch = add("fetch", _fetch, "Fetch the model's files, verified; nothing is done if they are there.")
    fetch.add_argument("--to", type=Path, metavar="DIR", help="default: weights/ of a checkout, else the cache")
    info = add("info", _info, "Where the model's files are, their sha256, the configuration, and what computes.")
    for sub in (similarity, encode, search, evaluation, info):
        add_model(sub)
    return parser


# --- commands ----------------------------------------------------------------------------------


def _load(arguments: argparse.Namespace, texts: int) -> SentenceTransformer:
    from minilm_np import SentenceTransformer

    # Numba takes half a second to import, in which NumPy has embedded a hundred short texts.
    backend = "numpy" if texts <= FEW else "auto"
    if arguments.model is None:
        return SentenceTransformer(backend=backend)
    return SentenceTransformer(arguments.model, backend=backend)


def _similarity(arguments: argparse.Namespace) -> None:
    texts = arguments.texts
    if len(texts) < 2:
        raise ValueError("TEXT: found 1 text, wanted two or more")
    from minilm_np.util import cos_sim

    embeddings = _load(arguments, len(texts)).encode(texts).astype("float64")
    scores = cos_sim(embeddings, embeddings)
    if len(texts) == 2:
        print(f"{scores[0, 1]:.6f}")
        return
    print("".join(f"{i:>10}" for i in range(1, len(texts) + 1)))
    for i, text in enumerate(texts):
        print("".join(f"{score:10.6f}" for score in scores[i]), f"  {i + 1} {_shorten(text)}")


def _encode(arguments: argparse.Namespace) -> None:
    output: Path | None = arguments.output
    if output is not None:
        if output.suffix not in (".npy", ".jsonl"):
            raise ValueError(f"--output: found {str(output)!r}, wanted a name that ends in .npy or .jsonl")
        if output.is_dir():
            raise ValueError(f"--output: {output} is a folder")
        if not output.parent.is_dir():
            raise ValueError(f"--output: {output.parent} is not a folder")
    texts = _read_lines(arguments.file)
    model = _load(arguments, len(texts))
    embeddings = model.encode(texts, batch_size=arguments.batch_size, show_progress_bar=sys.stderr.isatty())
    embeddings = embeddings.reshape(len(texts), -1 if texts else model.config.hidden_size).astype("float32")
    if output is None:
        _write_jsonl(sys.stdout.buffer, texts, embeddings)
    elif output.suffix == ".jsonl":
        _write_atomically(output, lambda file: _write_jsonl(file, texts, embeddings))
    else:
        _write_atomically(output, lambda file: _write_npy(file, embeddings))


def _search(arguments: argparse.Namespace) -> None:
    import numpy as np

    from minilm_np.util import cos_sim

    if arguments.k < 1:
        raise ValueError(f"-k: found {arguments.k}, wanted 1 or more")
    texts = _read_lines(arguments.corpus)
    if not texts:
        raise ValueError(f"CORPUS: {arguments.corpus} has no lines")
    model = _load(arguments, len(texts))
    corpus = model.encode(texts, show_progress_bar=sys.stderr.isatty())
    scores = cos_sim(model.encode(arguments.query).astype("float64"), corpus)[0]
    # Of scores that print alike the earlier line comes first: equal texts may differ in the last bits.
    for i in np.argsort(-np.round(scores, 6), kind="stable")[: arguments.k]:
        print(f"{scores[i]:.6f}\t{i + 1}\t{texts[i]}")


def _fetch(arguments: argparse.Namespace) -> None:
    from minilm_np import weights

    place = weights.find() if arguments.to is None else None
    if place:
        weights.verify(place.folder)
    print(place.folder if place else weights.fetch(arguments.to))


def _info(arguments: argparse.Namespace) -> None:
    from dataclasses import asdict

    import numpy as np

    from minilm_np import __version__, weights
    from minilm_np.checkpoint import parameter_shapes

    model = _load(arguments, FEW + 1)
    place = model.place
    print(f"minilm_np   {__version__}, Python {sys.version.split()[0]}, NumPy {np.__version__}")
    print(f"weights     {place.folder} ({place.what})")
    for file, wanted in weights.SHA256.items():
        found = weights.sha256_of(place.folder / file)
        print(f"  {found}  {file}{'' if found == wanted else '  (not that of ' + weights.DEFAULT_MODEL + ')'}")
    count = sum(int(np.prod(shape)) for shape in parameter_shapes(model.config).values())
    print(f"parameters  {count:,}")
    print("config      " + ", ".join(f"{key} {value}" for key, value in asdict(model.config).items()))
    print(f"op set      {model.backend} ({model.backend_reason}); numpy for commands of up to {FEW} texts")
    print(f"threads     {model.threads}" if model.backend == "numba" else "threads     NumPy's BLAS manages its own")
    print(f"cache       {weights.cache_folder()}")


def _crosscheck(arguments: argparse.Namespace) -> int:
    from minilm_np.crosscheck.compare import FINAL, crosscheck, probe_texts, stage_texts

    if arguments.texts:
        print(json.dumps(probe_texts(), ensure_ascii=False, indent=1))
        return 0
    _check_outputs(arguments, "json", "junit", "plot")
    if arguments.target is None:
        raise ValueError("TARGET: found none, wanted a backend (see --help), or --texts")
    if arguments.corpus is not None:
        return _equivalence(arguments)
    if arguments.against is not None:
        raise ValueError("--against: found it without --corpus; wanted both")
    target = _target(arguments.target, arguments)
    if callable(target):
        report = crosscheck(target, causes=not arguments.no_causes)
    else:
        # of all texts the final vectors are what encode gives; of those with stages they are one more stage
        final = target.pop(FINAL, None) if len(target.get(FINAL, ())) != len(stage_texts()) else None
        report = crosscheck(final, target or None, causes=not arguments.no_causes)
    try:
        if arguments.plot is not None:
            from minilm_np.crosscheck.plot import plot

            plot(report, arguments.plot)
        if arguments.junit is not None:
            _write_atomically(arguments.junit, lambda file: _write_text(file, report.to_junit()))
    finally:
        _write_and_print(arguments.json, report.to_json(), str(report))
    return 0 if report.ok else 1


def _target(name: str, arguments: argparse.Namespace) -> Any:
    """A function of texts, or the stages of a file of results by name."""
    from minilm_np.crosscheck import backends

    if not 0 < arguments.timeout <= MOST_SECONDS:
        found = f"{arguments.timeout:g}"
        raise ValueError(f"--timeout: found {found}, wanted seconds, more than 0 and at most {MOST_SECONDS}")
    if name.startswith(("http://", "https://")):
        return backends.http_endpoint(
            name, arguments.model_name, os.environ.get("MINILM_NP_API_KEY"), arguments.timeout
        )
    path = Path(name)
    if path.suffix == ".onnx":
        return backends.onnx_file(path)
    if path.suffix in backends.SUFFIXES or path.is_file():
        return backends.read_dump(path)
    return backends.load_function(name)


def _equivalence(arguments: argparse.Namespace) -> int:
    from minilm_np.crosscheck.compare import encode_in_batches
    from minilm_np.crosscheck.corpus import equivalence

    for option in ("junit", "plot"):
        if getattr(arguments, option) is not None:
            raise ValueError(f"--{option}: found it with --corpus, which has only --json")
    if arguments.k < 1:
        raise ValueError(f"-k: found {arguments.k}, wanted 1 or more")
    if not math.isfinite(arguments.threshold):
        raise ValueError(f"--threshold: found {arguments.threshold}, wanted a cosine")
    texts = _read_lines(arguments.corpus)
    if len(texts) < 2:
        raise ValueError(f"--corpus: {arguments.corpus} has {len(texts)} lines, wanted two or more")

    def embed(name: str | None) -> Any:
        if name is None:
            return _load(argparse.Namespace(model=None), len(texts)).encode(texts, truncation="ignore")
        encode = _target(name, arguments)
        if not callable(encode):
            if "sentence_embedding" not in encode:
                raise ValueError(f"{name}: found {', '.join(encode) or 'nothing'}, wanted sentence_embedding")
            return encode["sentence_embedding"]
        return encode_in_batches(name, encode, [texts[i : i + 32] for i in range(0, len(texts), 32)])

    found = equivalence(embed(arguments.against), embed(arguments.target), k=arguments.k, threshold=arguments.threshold)
    _write_and_print(arguments.json, json.dumps(found.to_dict(), indent=1), str(found))
    return 0 if found.go else 1


def _evaluate(arguments: argparse.Namespace) -> int:
    from minilm_np.evaluate import data, report
    from minilm_np.evaluate.run import Result, evaluate, mean_of
    from minilm_np.evaluate.tasks import Task, all_tasks, task_named

    named = [task_named(name) for name in arguments.tasks]
    if arguments.list:
        shown: data.Source | None = None
        with contextlib.suppress(ImportError):
            shown = data.Files(arguments.data) if arguments.data else data.Datasets()
        print(report.listing(named or all_tasks().values(), shown))
        return 0
    source: data.Source = data.Files(arguments.data) if arguments.data else data.Datasets()
    chosen = named or [task for task in all_tasks().values() if source.has(task)]
    if not chosen:
        raise ValueError(f"--data: {arguments.data or 'the cache of datasets'} has no data of any task; see --list")
    for task in named:  # before hours of work
        data.check(source, task)
    _check_outputs(arguments, "json")
    encode, batch_size, encoder = _encoder(arguments)
    from tqdm import tqdm

    done: dict[str, Result] = {}

    def result_of(task: Task) -> Result:
        if task.name not in done:
            if task.parts:
                done[task.name] = mean_of(task, [result_of(task_named(part)) for part in task.parts])
            else:
                with tqdm(desc=task.name, unit=" texts", leave=False, disable=not sys.stderr.isatty()) as bar:
                    found = evaluate(encode, task, source, batch_size=batch_size, on_texts=bar.update)
                done[task.name] = found
        return done[task.name]

    results: list[Result] = []
    try:
        for task in chosen:
            results.append(result_of(task))
    finally:  # what is finished when a task fails is not lost
        if results:
            everything = {"encoder": encoder, "results": [result.to_dict() for result in results]}
            written = json.dumps(everything, indent=1, allow_nan=False)
            _write_and_print(arguments.json, written, report.table(results, all_measures=arguments.measures))
    return 1 if any(result.verdict() == "differs" for result in results) else 0


def _encoder(arguments: argparse.Namespace) -> tuple[Any, int, dict[str, Any]]:
    """What to evaluate, how many texts it gets at once, and what it is."""
    if arguments.encoder is not None:
        for option in ("cache", "model", "backend", "dtype"):
            if getattr(arguments, option) is not None:
                raise ValueError(f"--{option}: found it with --encoder; wanted one of the two")
        encode = _target(arguments.encoder, arguments)
        if not callable(encode):
            raise ValueError(f"--encoder: {arguments.encoder} is a file of results; wanted what encodes texts")
        return encode, 32, {"encoder": arguments.encoder}  # endpoints take 32 texts at least
    import numpy as np

    from minilm_np import SentenceTransformer, __version__
    from minilm_np.evaluate.cache import cached, fingerprint

    options: dict[str, Any] = {"backend": arguments.backend or "auto", "dtype": arguments.dtype or "float32"}
    model = SentenceTransformer(*([] if arguments.model is None else [arguments.model]), **options)
    found = {
        "model": arguments.model or "sentence-transformers/all-MiniLM-L6-v2",
        "fingerprint": fingerprint(model),
        "backend": model.backend,
        "dtype": str(model.dtype),
        "minilm_np": __version__,
        "numpy": np.__version__,
    }
    if arguments.cache is None:
        return model, 4096, found
    encode = cached(lambda texts: model.encode(texts, truncation="ignore"), arguments.cache, found["fingerprint"])
    return encode, 4096, found


def _goldens(arguments: argparse.Namespace) -> None:
    from minilm_np.crosscheck.goldens import write_goldens

    print(write_goldens(arguments.folder))


# --- files -------------------------------------------------------------------------------------


def _read_lines(name: str) -> list[str]:
    """The lines of a UTF-8 file, without their ends (LF or CRLF); ValueError names file and line."""
    data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if lines[-1] == b"":  # what follows the last line's end is not a line
        lines.pop()
    texts = []
    for number, line in enumerate(lines, 1):
        try:
            texts.append(line.removesuffix(b"\r").decode("utf-8"))
        except UnicodeDecodeError as error:
            source = "standard input" if name == "-" else name
            raise ValueError(f"{source}, line {number}: not UTF-8 at byte {error.start}") from None
    return texts


def _check_outputs(arguments: argparse.Namespace, *options: str) -> None:
    """ValueError for a file that could not be written, before the work that it is for."""
    for option in options:
        path = getattr(arguments, option)
        if path is None or str(path) == "-":
            continue
        if not path.parent.is_dir():
            raise ValueError(f"--{option}: {path.parent} is not a folder")
        if path.is_dir():
            raise ValueError(f"--{option}: {path} is a folder, wanted a file")
        if not os.access(path if path.exists() and not path.is_file() else path.resolve().parent, os.W_OK):
            raise ValueError(f"--{option}: {path} cannot be written")


def _write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """The whole file or, if anything fails, what was there before."""
    if path.exists() and not path.is_file():  # a device or a pipe: there is nothing to rename onto
        with path.open("wb") as file:
            write(file)
        return
    path = path.resolve()  # what a symbolic link points to is replaced, not the link
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        part = Path(folder) / path.name
        with part.open("wb") as file:
            write(file)
        part.replace(path)


def _write_and_print(path: Path | None, written: str, shown: str) -> None:
    """JSON to the file, or to stdout if that is "-"; what is shown otherwise is shown even if the file fails."""
    try:
        if path is not None and str(path) != "-":
            _write_atomically(path, lambda file: _write_text(file, written))
    finally:
        print(written if str(path) == "-" else shown)


def _write_text(file: BinaryIO, text: str) -> None:
    file.write((text + "\n").encode())


def _write_npy(file: BinaryIO, embeddings: Embeddings) -> None:
    import numpy as np

    np.save(file, embeddings)


def _write_jsonl(file: BinaryIO, texts: list[str], embeddings: Embeddings) -> None:
    for text, row in zip(texts, embeddings, strict=True):
        embedding = [float(str(x)) for x in row]  # str of a float32: the fewest digits that give it back
        file.write(json.dumps({"text": text, "embedding": embedding}, ensure_ascii=False).encode() + b"\n")
    file.flush()


def _shorten(text: str, width: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3] + "..."


if __name__ == "__main__":
    sys.exit(main())
