"""Every command runs, with every flag, and prints or writes what the flag is for."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from generate.public_api import commands
from support.evaluation import STS_TSV, write_files

from minilm_np import SentenceTransformer
from minilm_np.cli import main
from minilm_np.crosscheck import goldens, probe_texts
from minilm_np.crosscheck.mistakes import catalogue
from minilm_np.kernels.simd import WIDTH, WITHOUT_JIT
from minilm_np.study import lab

LINES = ["A man is eating food.", "Someone has a meal.", "The stock market fell."]
PORT = """
import numpy as np

def encode(texts):
    return np.array([[len(text), text.count("a"), 1] for text in texts], np.float32)
"""
PAIRS = b'["bread and butter", "a loaf"]\n["the moon", "far away"]\n'
Output = Callable[[], str]
COMMANDS = {  # the command's name is the first word; W is the model's folder; the other files are those of `folder`
    "similarity": "similarity food meal --digits 3 --model W --dtype float64",
    "similarity, explain": "similarity food meal --explain",
    "encode": "encode lines.txt -o out.npy --batch-size 2 --model W --dtype float64",
    "encode, long": "encode lines.txt --output out.jsonl",
    "encode, standard input": "encode",
    "search": "search lines.txt dinner -k 2 --model W --dtype float64",
    "crosscheck": "crosscheck right.npy --json out.json --junit out.xml --no-causes",
    "crosscheck, a function": "crosscheck port:encode --no-causes --timeout 5 --model-name any",
    "crosscheck, texts": "crosscheck --texts",
    "crosscheck, plot": "crosscheck right.npy --plot out.svg --thorough",
    "crosscheck, corpus": "crosscheck rows.npy --corpus lines.txt --against other.npy -k 1 --threshold 0.5",
    "goldens": "goldens bundle",
    "evaluate": "evaluate STS12 --data . --backend numpy --dtype float64 --json - --model W",
    "evaluate, table": "evaluate STS12 --data . --backend numpy --cache cache --measures",
    "evaluate, port": "evaluate STS12 --data . --encoder port:encode --timeout 5 --model-name any",
    "evaluate, list": "evaluate --list --data .",
    "train": "train pairs.jsonl --output trained --model W --steps 2 --batch-size 2 --learning-rate 1e-5 "
    "--warmup-steps 1 --max-seq-length 16 --scale 10 --weight-decay 0.01 --max-grad-norm 2 --adam-beta1 0.8 "
    "--adam-beta2 0.99 --adam-epsilon 1e-7 --datasets-per-batch 2 --seed 1 --save-steps 1 --dropout 0.2 "
    "--mini-batch-size 2 --threads 1 --evaluate pairs.jsonl --eval-steps 1",
    "train, resume": "train pairs.jsonl -o resumed --steps 1 --batch-size 2 --warmup-steps 0 --resume",
    "trace": "trace food meal -o page.html --max-size 3 --model W",
    "trace, one text": "trace food --output page.html",
    "lab": "lab food meal -o lab.html",
    "lab, standard output": "lab food meal --output -",
    "exercise": "exercise exercise",
    "exercise, check": "exercise exercise --check",
    "fetch": "fetch --to W",
    "quantize": "quantize -o int8 --model W",
    "quantize, long": "quantize --output int8-again",
    "compile": "compile",
    "info": "info --model W --dtype bfloat16",
}


@pytest.fixture(scope="module")
def folder(model: SentenceTransformer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flags")
    np.save(folder / "right.npy", model.encode(probe_texts(), truncation="ignore"))
    np.save(folder / "rows.npy", np.eye(3))
    np.save(folder / "other.npy", np.eye(3)[[0, 0, 2]])
    return write_files(
        folder,
        {"lines.txt": "\n".join(LINES).encode(), "port.py": PORT.encode(), "STS12.tsv": STS_TSV, "pairs.jsonl": PAIRS},
    )


@pytest.fixture
def run(
    folder: Path, weights_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., str]]:
    """Run an entry of COMMANDS, in the folder, and return what it prints."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])

    def run(name: str, code: int = 0) -> str:
        arguments = [str(weights_folder) if word == "W" else word for word in COMMANDS[name].split()]
        assert main(arguments) == code
        out, err = capsys.readouterr()
        assert "error" not in err
        return out

    yield run
    sys.modules.pop("port", None)


def test_every_command_and_flag_is_run() -> None:
    words: dict[str, set[str]] = {name: set() for name in commands()}
    for line in COMMANDS.values():
        command, *rest = line.split()
        words[command].update(rest)
    for command, arguments in commands().items():
        flags = {flag for names in arguments for flag in names.split(", ") if flag.startswith("-")}
        assert flags - {"-h", "--help"} == {word for word in words[command] if word.startswith("-") and word != "-"}


@pytest.mark.parametrize("command", commands())
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_names_the_flags(command: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^0$"):
        main([command, flag])
    out = capsys.readouterr().out
    assert [names for names in commands()[command] if names.startswith("-") and names.split(", ")[0] not in out] == []


def test_similarity_prints_a_cosine(run: Callable[..., str]) -> None:
    assert -1 < float(run("similarity")) < 1


def test_similarity_explains_itself(run: Callable[..., str]) -> None:
    assert "The largest shares: " in run("similarity, explain")


def test_trace_writes_a_page(run: Callable[..., str]) -> None:
    pytest.importorskip("jinja2", reason="needs the study extra")
    for name in ("trace", "trace, one text"):
        assert run(name).startswith("page.html: ")
        assert Path("page.html").read_text("utf-8").startswith("<!DOCTYPE html>")


def test_lab_writes_a_page(run: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jinja2", reason="needs the study extra")
    monkeypatch.setattr(lab, "catalogue", lambda _: [m for m in catalogue() if m.name == "gelu-tanh"])
    assert "1 mistake" in run("lab")
    assert run("lab, standard output") == Path("lab.html").read_text("utf-8") + "\n"


def test_exercise_writes_a_folder_and_checks_it(run: Callable[..., str]) -> None:
    assert "encoder.py" in run("exercise")
    assert "not written yet" in run("exercise, check", code=1)


def test_encode_writes_a_vector_for_each_line(
    run: Callable[..., str], model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = model.encode(LINES)
    assert run("encode") == ""
    assert np.allclose(np.load("out.npy"), expected, atol=3e-7)
    assert run("encode, long") == ""
    rows = [json.loads(line) for line in Path("out.jsonl").read_text("utf-8").splitlines()]
    assert [row["text"] for row in rows] == LINES
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"one\ntwo\n")))
    monkeypatch.setattr(sys, "stdout", out := io.TextIOWrapper(io.BytesIO()))
    assert main(["encode"]) == 0
    assert out.buffer.getvalue().count(b"\n") == 2


def test_search_prints_lines_with_their_numbers(run: Callable[..., str]) -> None:
    rows = [line.split("\t") for line in run("search").splitlines()]
    assert sorted(text for _, _, text in rows) == sorted(LINES[:2])
    assert all(LINES[int(number) - 1] == text for _, number, text in rows)


def test_crosscheck_prints_and_writes_its_result(run: Callable[..., str]) -> None:
    assert run("crosscheck").startswith("PASS")
    assert json.loads(Path("out.json").read_text("utf-8"))["ok"] is True
    assert 'failures="0"' in Path("out.xml").read_text("utf-8")
    assert run("crosscheck, a function", code=1).startswith("DIFFERS")
    assert json.loads(run("crosscheck, texts")) == probe_texts()
    assert run("crosscheck, corpus", code=1).startswith("NO-GO  3 texts")


def test_crosscheck_draws_a_plot(run: Callable[..., str]) -> None:
    pytest.importorskip("matplotlib")
    assert run("crosscheck, plot").startswith("PASS")
    assert "<svg" in Path("out.svg").read_text("utf-8")


def test_goldens_prints_the_folder(run: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(goldens, "write_goldens", lambda folder: folder / "written")  # the real one takes ten seconds
    assert Path(run("goldens").strip()) == Path("bundle/written")


def test_evaluate_prints_scores(run: Callable[..., str]) -> None:
    pytest.importorskip("scipy")
    assert json.loads(run("evaluate", code=1))["encoder"]["dtype"] == "float64"
    assert "cos_sim_pearson" in run("evaluate, table", code=1)
    assert len(list(Path("cache").glob("*.sqlite"))) == 1
    assert run("evaluate, port", code=1).splitlines()[1].startswith("STS12")


def test_evaluate_lists_the_tasks_that_have_data(run: Callable[..., str]) -> None:
    listed = run("evaluate, list").partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in listed[1:] if line.endswith("yes")] == ["STS12"]


def test_fetch_and_info_print_the_folder(run: Callable[..., str], weights_folder: Path) -> None:
    assert run("fetch").strip() == str(weights_folder)
    out = run("info")
    assert "22,565,376" in out and str(weights_folder) in out and "\ndtype       bfloat16 " in out


def test_quantize_writes_a_model(run: Callable[..., str]) -> None:
    assert run("quantize").startswith("int8: ")
    assert run("quantize, long").startswith("int8-again: ")
    sizes = [Path(name, "model.safetensors").stat().st_size for name in ("int8", "int8-again")]
    assert sizes[0] == sizes[1] < 62e6


def test_compile_names_the_cpu(run: Callable[..., str]) -> None:
    if WITHOUT_JIT:
        assert main(["compile"]) == 2
    else:
        out = run("compile")
        assert "CPU" in out and f"vectors of {WIDTH} float32" in out


def test_train(run: Callable[..., str], folder: Path) -> None:
    assert "trained: 2 steps, loss " in run("train")
    record = json.loads((folder / "trained" / "training.json").read_text())
    expected = {
        "steps": 2, "batch_size": 2, "learning_rate": 1e-5, "warmup_steps": 1, "max_seq_length": 16, "scale": 10.0,
        "weight_decay": 0.01, "max_grad_norm": 2.0, "adam_beta1": 0.8, "adam_beta2": 0.99, "adam_epsilon": 1e-7,
        "datasets_per_batch": 2, "seed": 1, "dropout": [0.2, 0.2], "mini_batch_size": 2,
        "eval_steps": 1, "loss": "default",
    }  # fmt: skip
    digest = hashlib.sha256((folder / "pairs.jsonl").read_bytes()).hexdigest()[:16]
    expected["evaluate"] = f"pairs.jsonl (2 rows, sha256 {digest})"
    assert record["arguments"] == expected
    assert record["environment"]["threads"] == 1
    assert SentenceTransformer(folder / "trained", backend="numpy").encode("bread").shape == (384,)


def test_train_resume(run: Callable[..., str]) -> None:
    assert run("train, resume") == run("train, resume")  # the second time, the run has ended
