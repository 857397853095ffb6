"""Arguments of every command. The options are read from the parser, so that a new one is fuzzed, too."""

from __future__ import annotations

import argparse
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

from fuzz import checks, inputs, mutations, tiny
from fuzz.case import Case
from hypothesis import strategies as st

from minilm_np import cli
from minilm_np.crosscheck.truth import truth

Draw = st.DrawFn
NUMBERS = [
    "1", "2", "0", "-1", "3", "1.5", "1e3", "nan", "inf", "-inf", "1e400", "9" * 30, "", "x", "\u0663", " 1 ", "1_0",
    "0x1",
]  # fmt: skip
PATHS = [
    "lines.txt", "empty.txt", "bad.txt", "results.npy", "results.json", "folder", "missing", "missing/x", "", ".",
    "..", "/", "-", "--", "x.npy", "x.jsonl", "x.json", "x.svg", "out", "folder/x.npy", "x" * 300 + ".npy",
    "\udcff.npy", "lines.txt/x.npy", "read-only/x.npy", "loop", "dangling.npy", "link.npy", "/dev/null", "model",
    "results.npz",
]  # fmt: skip
FULL = "/dev/full"  # writing to it fails, and reading it does not end, as the user of /dev/zero expects
TARGETS = [
    "math:sqrt", "json:dumps", "builtins:len", "builtins:list", "no.such.module:f", "math:", ":x", "math:pi",
    "math:no.such", "http://", "http://localhost:1/embed", "http://[::1/embed", "https://localhost:99999/x",
    "http:///x", "math:sqrt:x", "file:///etc/passwd", "model.onnx", "results.npy", "results.json", "\u0663:\u0663",
    "a b:c",
]  # fmt: skip
TASKS = ["STS12", "NFCorpus", "sts12", "CQADupstackRetrieval", "", "x" * 1000, "../STS12"]
NAMES = ["numpy", "numba", "auto", "float32", "float64", "bfloat16", "int8", "torch", "", "fp16"]


# Half a minute and 300 MB for the smallest input: each mistake is made. tests/study/test_lab.py has its arguments.
TOO_LARGE = {"lab"}


@lru_cache(1)
def commands() -> dict[str, list[argparse.Action]]:
    """Return the options and arguments of each command."""
    parsers = next(a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {name: [a for a in parser._actions if a.dest != "help"] for name, parser in parsers.choices.items()}


@st.composite
def values(draw: Draw, action: argparse.Action) -> str:
    """Draw a value that suits the option, or seldom any."""
    pools: dict[str, list[str]] = {"target": TARGETS, "against": TARGETS, "encoder": TARGETS, "tasks": TASKS}
    if action.dest in ("backend", "dtype", "model_name"):
        pool = NAMES
    elif action.type in (int, float):
        pool = NUMBERS
    else:
        pool = pools.get(action.dest, PATHS)
    if action.dest in ("output", "json", "junit", "plot", "to"):
        pool = [*PATHS, FULL]
    if action.dest in ("query", "texts") and draw(st.booleans()):
        return draw(inputs.single_texts().filter(lambda text: "\0" not in text))
    return draw(st.sampled_from(NUMBERS + PATHS + NAMES if mutations.seldom(draw, 10) else pool))


@st.composite
def cases(draw: Draw) -> Case:
    name = draw(st.sampled_from(sorted(set(commands()) - TOO_LARGE)))
    arguments = [name]
    for action in commands()[name]:
        if not action.option_strings and not mutations.seldom(draw, 20):
            number = draw(st.integers(0, 3)) if action.nargs in ("+", "*") else 1
            arguments += [draw(values(action)) for _ in range(number)]
        elif action.option_strings and mutations.seldom(draw, 4):
            arguments.append(draw(st.sampled_from(action.option_strings)))
            if action.nargs != 0:
                arguments.append(draw(values(action)))
    if mutations.seldom(draw, 15):
        arguments.insert(
            draw(st.integers(0, len(arguments))), draw(st.sampled_from(["--bogus", "-h", "--version", "", "--", "-k"]))
        )
    closed = draw(st.sampled_from([[]] * 10 + [["stdout"], ["stderr"], ["stdin"]]))
    return Case("arguments", {}, {"arguments": arguments, "closed": closed})


def furnish(scratch: Path) -> None:
    """Put files, folders and links into the current folder."""
    tiny.write(scratch / "model")
    (scratch / "lines.txt").write_text("the cat\nsat on the mat\n")
    (scratch / "empty.txt").touch()
    (scratch / "bad.txt").write_bytes(b"the \xff\n")
    (scratch / "results.json").write_text("[[0.1, 0.2], [0.2, 0.3]]")
    (scratch / "folder").mkdir()
    (scratch / "folder" / "STS12.tsv").write_text("sentence1\tsentence2\tscore\na\tb\t1\nc\td\t2\n")
    (scratch / "read-only").mkdir(mode=0o500)
    for name, target in (("loop", "loop"), ("dangling.npy", "missing/x"), ("link.npy", "folder/y.npy")):
        (scratch / name).symlink_to(target)


def run(case: Case, scratch: Path) -> str:
    furnish(scratch)
    name, *rest = case.settings["arguments"]
    options = {action.dest for action in commands().get(name, [])}
    defaults = [
        *(["--model", "model"] if "model" in options else []),
        *(["--no-causes"] if "no_causes" in options else []),
    ]
    if "timeout" in options and "--timeout" not in rest:
        defaults += ["--timeout", "2"]
    closed = case.settings["closed"]
    # `goldens` takes 7 s to compute the reference reproducibly; here it writes the one that is there.
    with patch("minilm_np.crosscheck.goldens.compute", lambda _: truth()):
        result = checks.command([name, *defaults, *rest], b"the cat\n", closed)
    names = [*names_in(rest, options), "standard output"]
    return f"{name} {checks.check_command(result, names, closed)}"


def names_in(arguments: list[Any], options: set[str]) -> list[str]:
    """Return what a message may name: an argument as it was given, an option, or a kind of argument."""
    paths = [path for a in arguments for path in (Path(a), *Path(a).parents)]
    given = [shown for a in (*arguments, *map(str, paths)) if a for shown in (a, repr(a))]
    given += [a.encode("utf-8", "backslashreplace").decode() for a in given]
    flags = [f"--{option.replace('_', '-')}" for option in options] + ["-k:"]
    kinds = [
        "TARGET",
        "TEXT",
        "minilm-np[study]",
        "CORPUS",
        "TASK",
        "encode,",
        "encode:",
        "sentences[",
        "model_name_or_path",
        "standard input",
    ]
    return [*given, *flags, *kinds, "stdin", "stdout"]
