"""Cross-checking: the truth, the report, causes, files, endpoints, the command line and the pytest plugin."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from support.paths import REPOSITORY
from support.tolerances import FLOAT64, assert_close

from minilm_np import SentenceTransformer, ops
from minilm_np.cli import main
from minilm_np.crosscheck import (
    CannotCompareError,
    assert_matches_minilm,
    crosscheck,
    equivalence,
    probe_batches,
    probe_texts,
    reproducible,
    stage_texts,
)
from minilm_np.crosscheck.backends import http_endpoint, load_function, read_dump
from minilm_np.crosscheck.causes import Cause, Evidence, Search
from minilm_np.crosscheck.goldens import GoldensError, read_goldens, write_goldens
from minilm_np.crosscheck.mistakes import RIGHT, catalogue
from minilm_np.crosscheck.report import Report, StageResult, Worst
from minilm_np.crosscheck.truth import STAGE_ROWS, K, batches, simulator, tolerance, truth
from minilm_np.crosscheck.variant import to_bf16
from minilm_np.model import stage_names

Encode = Callable[[list[str]], Any]


@pytest.fixture(scope="module", autouse=True)
def _needs_weights(weights_folder: Path) -> Iterator[None]:
    """The default model, wherever the other tests found it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINILM_NP_WEIGHTS", str(weights_folder))
        yield


def made_with(*names: str) -> Encode:
    """A backend that makes these mistakes of the catalogue."""
    variant = RIGHT
    for mistake in catalogue():
        variant = mistake.apply(variant) if mistake.name in names else variant
    return lambda texts: simulator().run(variant, texts, [range(len(texts))]).embeddings


# --- the truth


def test_the_truth_is_the_oracle(oracle: SentenceTransformer) -> None:
    assert_close(truth().embeddings, oracle.encode(probe_texts(), truncation="ignore"), FLOAT64, "embeddings")
    stages = oracle.stages(stage_texts())
    assert set(truth().stages) == set(stage_names(oracle.config))
    found = np.concatenate(truth().stages["encoder.layer.3.intermediate"])
    assert_close(found, stages["encoder.layer.3.intermediate"], FLOAT64, "intermediate")


def test_probes_are_forty_and_their_names_differ() -> None:
    assert len(probe_texts()) == 40 == len(set(probe_texts()))
    assert [text for batch in probe_batches() for text in batch] == probe_texts()
    lengths = [len(ids) for ids in truth().token_ids]
    assert sum(length > 128 for length in lengths) >= 3 and max(lengths) == 256  # truncation shows


def test_matmul_is_exact_where_float64_is_and_near_it_elsewhere() -> None:
    rng = np.random.default_rng(1)
    integers = rng.integers(-(2**20), 2**20, (2, 5, 300)).astype(float)
    assert np.array_equal(reproducible.matmul(integers[0], integers[1].T), integers[0] @ integers[1].T)
    a, b = rng.standard_normal((7, 1536)) * 10.0 ** rng.integers(-9, 9, (7, 1)), rng.standard_normal((1536, 4))
    wanted = np.array([[float(sum(map(_fraction, x * y))) for y in b.T] for x in a])
    scale = np.abs(a).max(1, keepdims=True) * np.abs(b).max(0)
    assert_close(reproducible.matmul(a, b) / scale, wanted / scale, 1e-13, "matmul")  # measured 8e-15
    assert not reproducible.matmul(np.zeros((2, 3)), np.ones((3, 2))).any()


def _fraction(x: float) -> Any:
    from fractions import Fraction

    return Fraction(x)


def test_functions_of_the_reproducible_op_set() -> None:
    import math

    x = np.concatenate([np.linspace(-12, 12, 1001), [0.0, -40.0, 40.0]])
    exact = [value * 0.5 * math.erfc(-value / math.sqrt(2)) for value in x]
    assert_close(reproducible.gelu(x), exact, 1.5e-14, "gelu")  # measured 4.6e-15
    negative = -np.linspace(0, 800, 1001)
    assert_close(reproducible.exp(negative), np.exp(negative), 0, "exp", rtol=4e-16)
    rng = np.random.default_rng(2)
    hidden_states, offsets = rng.standard_normal((9, 6)), np.array([0, 2, 9])
    for mode in ("mean", "cls", "max", "mean_sqrt_len_tokens"):
        found = reproducible.pool(hidden_states, offsets, mode)
        assert_close(found, ops.pool(hidden_states, offsets, mode), 1e-15, mode)
    with pytest.raises(ValueError, match="activation: found 'gelu_new'"):
        reproducible.linear(hidden_states, ops.Dense(np.ones((2, 6)), np.ones(2)), "gelu_new")


# --- the golden bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_goldens(tmp_path_factory.mktemp("goldens") / "bundle")


def test_the_bundle_is_the_truth(bundle: Path) -> None:
    goldens = read_goldens(bundle)
    assert goldens.texts == probe_texts()
    assert_close(goldens.embeddings, truth().embeddings, 1e-14, "embeddings")  # measured 4e-16
    assert [case["token_ids"] for case in goldens.cases] == [ids.tolist() for ids in truth().token_ids]
    assert len(goldens.stages) == len(STAGE_ROWS) * len(goldens.tolerances)
    for name, value in goldens.stages.items():
        case, _, stage = name.partition("/")
        assert_close(value, truth().of(stage, [int(case)])[0], 1e-11, name, rtol=1e-7)  # float32 of float64
        assert goldens.tolerances[stage] == tolerance(stage)
    assert json.loads((bundle / "embeddings.json").read_text()) == goldens.embeddings.tolist()


def test_the_bundle_has_the_same_bytes_with_other_kernels(bundle: Path, tmp_path: Path) -> None:
    """Another BLAS kernel, and NumPy without its vector code, in another process."""
    code = (
        "import sys, pathlib; from minilm_np.crosscheck.goldens import write_goldens as w; w(pathlib.Path(sys.argv[1]))"
    )
    disabled = "AVX512F AVX512_SKX AVX2 FMA3" if "x86" in os.uname().machine else ""
    environment = {**os.environ, "OPENBLAS_CORETYPE": "Sandybridge", "NPY_DISABLE_CPU_FEATURES": disabled}
    command = [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "again")]
    subprocess.run(command, check=True, env=environment)
    for file in bundle.iterdir():
        assert _sha256(file) == _sha256(tmp_path / "again" / file.name), file.name


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_visible_mistake_is_shown_by_a_probe(bundle: Path) -> None:
    table = json.loads((bundle / "detection.json").read_text())
    assert [row["mistake"] for row in table] == [mistake.name for mistake in catalogue()]
    for row in table:
        if row["mistake"].startswith("bias-dropped-key-"):  # softmax does not see it: no probe can
            assert row["tolerances"] < 1
        else:
            assert row["tolerances"] > 25 and row["probes_that_show_it"] >= 1, row


def test_a_bundle_that_was_changed_is_refused(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "copy")
    (tmp_path / "copy" / "cases.json").write_text("[]")
    with pytest.raises(GoldensError, match=r"cases\.json: found sha256 .*, wanted"):
        read_goldens(tmp_path / "copy")
    (tmp_path / "copy" / "cases.json").unlink()
    with pytest.raises(GoldensError, match=r"cases\.json: no such file"):
        read_goldens(tmp_path / "copy")
    with pytest.raises(GoldensError, match=r"manifest\.json: no such file"):
        read_goldens(tmp_path)


def test_a_bundle_is_not_written_over_anything(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(GoldensError, match="wanted a new or empty folder"):
        write_goldens(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.skipif(shutil.which("node") is None, reason="needs Node")
def test_the_format_pages_javascript_reads_it(bundle: Path, tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "goldens.md").read_text(encoding="utf-8")
    script = page.split("```js\n")[1].split("```")[0]
    (tmp_path / "read.mjs").write_text(script)
    run = subprocess.run(
        ["node", tmp_path / "read.mjs", bundle], check=True, capture_output=True, text=True, timeout=60
    )
    wanted = truth().of("encoder.layer.5.output", [0])[0]
    assert run.stdout.splitlines()[0] == f"40 cases; case 0: {probe_texts()[0]}"
    assert run.stdout.splitlines()[1].startswith("00/encoder.layer.5.output 11,384 ")
    assert_close(float(run.stdout.splitlines()[1].split()[-1]), wanted[0, 0], 1e-6, "first number")


def test_the_format_pages_python_reads_it(bundle: Path, tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "goldens.md").read_text(encoding="utf-8")
    script = page.split("```python\n")[1].split("```")[0]
    output = subprocess.run(
        [sys.executable, "-c", script, bundle], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    assert output.splitlines()[0] == f"40 cases; case 0: {probe_texts()[0]}"


# --- right backends pass


def test_both_op_sets_pass(model: SentenceTransformer, numba_model: SentenceTransformer) -> None:
    for right in (model, numba_model):
        report = crosscheck(partial(right.encode, truncation="ignore"), right.stages)
        assert report.ok and report.first_divergence is None and not report.causes, report
        assert 0 < report.max_error <= report.tolerance < 2e-6
        assert len(report.stages) == len(stage_names(right.config)) + 1 and str(report).startswith("PASS")


def test_any_form_of_a_right_answer_passes(model: SentenceTransformer) -> None:
    packed = model.stages(stage_texts())
    name = "encoder.layer.2.output"
    lengths = [len(ids) for ids in (truth().token_ids[row] for row in STAGE_ROWS)]
    rows = np.split(packed[name], np.cumsum(lengths)[:-1])
    padded = np.full((len(rows), max(lengths), 384), np.nan)
    for place, value in zip(padded, rows, strict=True):
        place[: len(value)] = value
    for form in (packed[name], rows, [row[None] for row in rows], padded):
        assert crosscheck(stages={name: form}).ok
    assert crosscheck(stages={"last_hidden_state": packed["encoder.layer.5.output"]}).ok
    assert crosscheck(model.encode(probe_texts(), truncation="ignore").tolist()).ok
    assert crosscheck(tokenize=lambda texts: [ids.tolist() for ids in truth().token_ids]).ok


def test_stages_alone_say_where(model: SentenceTransformer) -> None:
    def stages(texts: list[str]) -> dict[str, Any]:
        found = model.stages(texts)
        found["encoder.layer.4.output"] = found["encoder.layer.4.output"].copy()
        found["encoder.layer.4.output"][5, 7] += 1
        return found

    report = crosscheck(stages=stages, causes=False)
    assert not report.ok and report.first_divergence == "encoder.layer.4.output"
    worst = next(stage for stage in report.stages if not stage.ok).worst
    assert worst is not None and (worst.probe, worst.index, worst.token) == ("sentence", (5, 7), "a")
    assert abs(worst.found - worst.wanted - 1) < 1e-5 and "word piece a" in str(report)


# --- wrong ones are named


@pytest.mark.parametrize(
    "name",
    [
        "gelu-tanh", "layer-norm-eps-1e-06", "truncation-128", "cased", "positions-off-by-1", "padding-attended",
        "padding-in-mean", "pooling-cls", "no-normalization", "attention-kv-swapped", "heads-interleaved",
        "weight-transposed-query-layer-3", "bias-dropped-output-layer-5", "last-layer-dropped", "layers-swapped-1-2",
        "fp16-weights", "int8-weights-per-channel", "rows-longest-first", "rows-first-repeated",
    ],
)  # fmt: skip
def test_a_mistake_is_named(name: str) -> None:
    report = crosscheck(made_with(name))
    assert not report.ok and report.first_divergence == "sentence_embedding"
    assert [cause.name for cause in report.causes] == [name], report
    assert report.causes[0].explained > 0.99 and report.causes[0].fits and name in str(report)


def test_two_mistakes_are_named() -> None:
    report = crosscheck(made_with("gelu-tanh", "truncation-128"))
    assert report.causes[0].name == "gelu-tanh + truncation-128" and report.causes[0].fits, report


def test_two_mistakes_of_which_one_shows_in_few_texts_are_named() -> None:
    report = crosscheck(made_with("fp16-weights", "accents-kept"))
    assert report.causes[0].name == "accents-kept + fp16-weights" and report.causes[0].fits, report


def test_a_mistake_of_few_texts_is_found_among_noise_in_all() -> None:
    """The first text that is wrong has no control characters: it says nothing of them, others are asked."""
    noise = np.random.default_rng(7).standard_normal((40, 384)) * 2e-5
    found = list(np.concatenate([made_with("no-unicode-cleaning")(texts) for texts in probe_batches()]) + noise)
    rows, final = range(40), "sentence_embedding"
    one = Evidence(final, rows, batches(), found, truth().of(final, rows), tolerance(final))
    leave_it = ("truncation-128", "truncation-512", "accents-kept", "cjk-not-split", "no-unicode-cleaning")
    search = Search(simulator(), truth().token_ids, [one], only=lambda m: m.name in leave_it, pairs=False)
    (cause,) = search.causes()
    assert cause.name == "no-unicode-cleaning" and not cause.fits and cause.explained > 0.95


def test_long_vectors_may_be_off_by_more() -> None:
    """Rounding of a vector of length 30 is not that of one of length 1: the cause fits, and no second is sought."""
    report = crosscheck(lambda texts: made_with("pooling-mean-sqrt-len")(texts) * (1 + 1e-6))
    assert report.causes[0].name == "pooling-mean-sqrt-len" and report.causes[0].fits, report


def test_final_vectors_among_the_stages_are_those_of_some_texts() -> None:
    names = ["pooled", "sentence_embedding"]
    mistake = next(m for m in catalogue() if m.name == "pooling-cls")
    run = simulator().run(mistake.apply(), stage_texts(), [range(len(STAGE_ROWS))], names)
    report = crosscheck(stages=run.stages)
    assert report.first_divergence == "pooled" and report.causes[0].name == "pooling-cls", report
    assert crosscheck(stages={"sentence_embedding": run.stages["sentence_embedding"]}).causes[0].name == "pooling-cls"


@pytest.mark.parametrize("off", [0.0, 1e-3])
def test_a_stage_of_another_shape_is_explained_by_nothing(off: float) -> None:
    """The first text that is wrong has no numbers at all, so nothing that could be explained a share of."""
    right = truth().of("embeddings", STAGE_ROWS)
    found = [np.zeros((0, 384)) if len(one) == 2 else one for one in right]
    found[-2] = found[-2] + off
    report = crosscheck(stages={"embeddings": found})
    assert not report.ok and report.causes == []


def test_a_mistake_that_only_a_stage_shows_is_named() -> None:
    mistake = next(m for m in catalogue() if m.name == "bias-dropped-key-layer-2")
    names = stage_names(truth().checkpoint.config)
    run = simulator().run(mistake.apply(), stage_texts(), [range(len(STAGE_ROWS))], names)
    report = crosscheck(made_with(mistake.name), run.stages)
    assert report.first_divergence == "encoder.layer.2.attention.self.key"
    assert report.stages[-1].ok and not report.ok  # the vectors are right
    # the same bias dropped in all layers fits this stage as well, but not layer 0, which is right
    assert [cause.name for cause in report.causes] == [mistake.name]


def test_wrong_word_pieces_are_the_first_divergence() -> None:
    mistake = next(m for m in catalogue() if m.name == "accents-kept")
    run = simulator().run(mistake.apply(), probe_texts(), [range(40)])
    report = crosscheck(made_with(mistake.name), tokenize=lambda texts: run.token_ids)
    assert report.first_divergence == "token_ids" and report.causes[0].name == "accents-kept", report


def test_noise_is_not_explained(model: SentenceTransformer) -> None:
    noise = np.random.default_rng(3).standard_normal((40, 384)) * 1e-3
    rows = dict(zip(probe_texts(), truth().embeddings + noise, strict=True))
    report = crosscheck(lambda texts: [rows[text] for text in texts])
    assert not report.ok and report.causes == [] and "no known mistake explains this" in str(report)


def test_what_is_no_mistake_of_arithmetic_is_named() -> None:
    rng = np.random.default_rng(4)
    right = truth().embeddings
    with_nan = right.copy()
    with_nan[3, 5] = np.nan
    random = rng.standard_normal((40, 384))
    cases = [
        (rng.standard_normal((40, 768)), "other-dimension"),
        (right[:, :128], "other-dimension"),
        (with_nan, "not-finite"),
        (right * 0, "all-zero"),
        (random / np.linalg.norm(random, axis=1, keepdims=True), "unrelated-vectors"),
        (right[rng.permutation(40)], "rows-out-of-order"),
        (right[[0, 1, 1, *range(3, 40)]], "rows-repeated"),
    ]
    for found, name in cases:
        report = crosscheck(found)
        assert not report.ok and report.causes[0].name == name, (name, report)
        json.loads(report.to_json())


# --- what cannot be compared


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda texts: 1 / 0, "encode, batch 0: raised ZeroDivisionError: division by zero"),
        (lambda texts: [["a"] * 384] * len(texts), "encode, batch 0: wanted numbers"),
        (lambda texts: [[0.0] * 384] * (len(texts) - 1), r"encode, batch 0: found shape \(7, 384\), wanted \(8, 384\)"),
        (lambda texts: [[0.0] * 3, [0.0] * 4], "encode, batch 0: wanted numbers"),
        (lambda texts: None, "encode, batch 0: wanted numbers"),
        (np.zeros(384), r"encode: found shape \(384,\), wanted \(40, 384\)"),
        (lambda texts: np.zeros((len(texts), 300 + len(texts[0]) % 7)), "found 30. dimensions, wanted 30. as before"),
    ],
)
def test_an_answer_that_cannot_be_compared(encode: Any, message: str) -> None:
    with pytest.raises(CannotCompareError, match=message):
        crosscheck(encode)


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({}, "wanted a mapping of at least one"),
        ({"layer.0": np.zeros((3, 3))}, "found 'layer.0', wanted names such as"),
        ({"pooled": np.zeros((3, 3))}, r"found shape \(3, 3\); wanted a list of"),
        (
            {"last_hidden_state": [], "token_embeddings": []},
            "'token_embeddings' is another name of encoder.layer.5.output",
        ),
        ({"pooled": [[[1.0], [1.0, 2.0]]] * len(STAGE_ROWS)}, r"stages\['pooled'\]\[0\]: wanted numbers"),
        ({"token_ids": [[1.5]]}, "token_ids: wanted a list of"),
        (lambda texts: 1 / 0, "stages: raised ZeroDivisionError"),
    ],
)
def test_stages_that_cannot_be_compared(stages: Any, message: str) -> None:
    with pytest.raises(CannotCompareError, match=message):
        crosscheck(stages=stages)
    with pytest.raises(CannotCompareError, match="found nothing to compare"):
        crosscheck()


# --- the report


def a_report() -> Report:
    worst = Worst("bell\u0007", "a\u0007b <&>", (2, 3), "a", 1.0, 2.0)
    stages = [StageResult("embeddings", 1e-7, 1e-6), StageResult("pooled", np.inf, 1e-6, worst)]
    return Report(stages, [Cause("gelu-tanh", 0.75, "tanh", 30.0)], True)


def test_a_report_in_every_form() -> None:
    report = a_report()
    found = json.loads(report.to_json())
    assert (found["ok"], found["max_error"], found["first_divergence"]) == (False, None, "pooled")
    assert found["causes"] == [{"name": "gelu-tanh", "explained": 0.75, "says": "tanh", "fits": False}]
    suite = ElementTree.fromstring(report.to_junit())
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert report.sparkline() == "\u2583\u2588"
    assert "maybe    gelu-tanh: tanh (75.00 % explained)" in str(report)


def test_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the bench extra")
    from minilm_np.crosscheck.plot import plot

    for name in ("a.png", "a.svg", "a.html"):
        plot(a_report(), tmp_path / name)
    assert "gelu-tanh" in (tmp_path / "a.html").read_text() and "<svg" in (tmp_path / "a.html").read_text()
    with pytest.raises(ValueError, match=r"wanted a name that ends in \.png"):
        plot(a_report(), tmp_path / "a.gif")


# --- files


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors", "json", "jsonl", "by_stage.json", "bundle"])
def test_a_file_of_right_results_passes(bundle: Path, tmp_path: Path, suffix: str) -> None:
    from safetensors.numpy import save_file

    vectors = truth().embeddings.astype(np.float32)
    path = tmp_path / f"results.{suffix}"
    if suffix == "npy":
        np.save(path, vectors)
    elif suffix == "npz":
        np.savez(path, sentence_embedding=vectors)
    elif suffix == "safetensors":
        save_file({"sentence_embedding": vectors}, path)
    elif suffix == "jsonl":
        path.write_text("".join(json.dumps({"embedding": row}) + "\n" for row in vectors.tolist()))
    elif suffix == "bundle":
        path = bundle / "stages.safetensors"
    else:
        path.write_text(json.dumps({"sentence_embedding": vectors.tolist()} if "by" in suffix else vectors.tolist()))
    assert main(["crosscheck", str(path)]) == 0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", b"not numpy", "not a valid .npy file"),
        ("a.npz", b"PK nothing", "not a valid .npz file"),
        ("a.safetensors", b"\xff" * 20, "not a valid .safetensors file"),
        ("a.json", b"{", "not a valid .json file"),
        ("a.json", b"[" * 100000, "not a valid .json file"),
        ("a.jsonl", b'{"vector": []}', "not a valid .jsonl file"),
        ("a.csv", b"1,2", "found .csv, wanted .npy"),
        ("a.json", b'[["x"]]', "encode: wanted numbers"),
        ("a.json", b"[[1, 2]]", "found shape (1, 2), wanted (40, 384)"),
        ("a.json", b'{"02/embeddings": [[1]]}', "embeddings: found no case 0"),
        ("a.json", b'{"sentence_embedding": {"a": 1}}', "encode: wanted numbers"),
    ],
)
def test_a_bad_file_is_one_line_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    assert main(["crosscheck", str(tmp_path / name)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and message in captured.err, captured.err


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(CannotCompareError, match=r"a\.npy: not a valid"):
        read_dump(tmp_path / "a.npy")


def test_a_damaged_or_enormous_archive_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", pooled=np.arange(40000.0))
    data = bytearray((tmp_path / "a.npz").read_bytes())
    data[len(data) // 2 : len(data) // 2 + 50] = b"x" * 50
    (tmp_path / "b.npz").write_bytes(data)
    with pytest.raises(CannotCompareError, match=r"b\.npz: not a valid \.npz file"):
        read_dump(tmp_path / "b.npz")
    monkeypatch.setattr("minilm_np.crosscheck.backends.LARGEST_FILE", 300000)
    assert (tmp_path / "a.npz").stat().st_size < 300000
    with pytest.raises(CannotCompareError, match=r"a\.npz: found 320\d\d\d bytes unpacked, wanted at most 300000"):
        read_dump(tmp_path / "a.npz")
    (tmp_path / "c.json").write_text("5")
    with pytest.raises(CannotCompareError, match=r"c\.json: found 5, wanted a vector for each text"):
        read_dump(tmp_path / "c.json")


# --- endpoints


class Server:
    """A local endpoint whose answer a test chooses."""

    def __init__(self, answer: Callable[[Any, Any], None]):
        outer = self
        self.answer, self.requests = answer, []  # type: ignore[var-annotated]

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(body)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client gave up, as it should
                    outer.answer(self, body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}{path}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[Any, Any], None]], Server]]:
    servers: list[Server] = []

    def start(answer: Callable[[Any, Any], None]) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def send(handler: Any, body: bytes, kind: str = "application/json", code: int = 200) -> None:
    handler.send_response(code)
    handler.send_header("Content-Type", kind)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def right_vectors(texts: list[str]) -> list[list[float]]:
    rows = dict(zip(probe_texts(), truth().embeddings.tolist(), strict=True))
    return [rows[text] for text in texts]


def open_ai(handler: Any, body: Any, pack: str = "<384f") -> None:
    rows: list[Any] = right_vectors(body["input"])
    if body["encoding_format"] == "base64":
        rows = [base64.b64encode(struct.pack(pack, *row)).decode() for row in rows]
    data = [{"index": i, "embedding": row} for i, row in enumerate(rows)]
    send(handler, json.dumps({"data": data[::-1]}).encode())  # the index says which is which


def test_endpoints_that_are_right_pass(serve: Any, capsys: pytest.CaptureFixture[str]) -> None:
    tei = serve(lambda handler, body: send(handler, json.dumps(right_vectors(body["inputs"])).encode()))
    assert main(["crosscheck", tei.url("/embed")]) == 0
    assert [len(request["inputs"]) for request in tei.requests] == [len(batch) for batch in batches()]
    other = serve(open_ai)
    assert main(["crosscheck", other.url("/v1/embeddings"), "--model-name", "mine"]) == 0
    assert {request["model"] for request in other.requests} == {"mine"}
    assert capsys.readouterr().out.count("PASS") == 2


def hang(handler: Any, _: Any) -> None:
    time.sleep(3)


def slowly(handler: Any, data: bytes) -> None:
    for byte in data:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(0.05)


def drip(code: int) -> Callable[[Any, Any], None]:
    def answer(handler: Any, _: Any) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        slowly(handler, b"[" * 60)

    return answer


def drip_headers(handler: Any, _: Any) -> None:
    slowly(handler, b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 60)


def huge(handler: Any, _: Any) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _step in range(80):
        handler.wfile.write(b" " * 2**20)


def short(handler: Any, _: Any) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"[[1.0")


def answering(text: str, kind: str = "application/json", code: int = 200) -> Callable[[Any, Any], None]:
    return lambda handler, body: send(handler, text.encode(), kind, code)


HOSTILE: list[tuple[Callable[[Any, Any], None], str]] = [
    (hang, "no whole answer within 0.5 s"),
    (drip(200), "no whole answer within 0.5 s"),
    (drip_headers, "no whole answer within 0.5 s"),
    (drip(500), "no whole answer within 0.5 s"),
    (huge, "more than 67108864 bytes"),
    (short, "wanted JSON"),
    (answering("<html>login</html>", "text/html"), "found text/html '<html>login</html>', wanted JSON"),
    (answering("no such model", code=503), "HTTP 503: no such model"),
    (answering("[" * 100000), "wanted JSON"),
    (answering("[]"), "found 0 vectors, wanted a list of 8"),
    (answering(json.dumps([[0.5] * 384] * 7)), "found 7 vectors, wanted a list of 8"),
    (answering(json.dumps([["a"] * 384] * 8)), "vector 0: found \"['a', 'a'"),
    (answering(json.dumps([[0.5] * 3, [0.5] * 4] * 4)), "found vectors of 3 and of 4 numbers"),
    (answering(json.dumps([[]] * 8)), "vector 0: found '[]', wanted a list of numbers"),
    (answering(json.dumps({"error": "x"})), "found dict, wanted a list of 8"),
]


@pytest.mark.parametrize(("answer", "message"), HOSTILE)
def test_a_hostile_endpoint_is_one_line(serve: Any, answer: Any, message: str) -> None:
    start = time.monotonic()
    with pytest.raises(CannotCompareError) as caught:
        crosscheck(http_endpoint(serve(answer).url("/embed"), timeout=0.5))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert time.monotonic() - start < 3


def test_an_endpoint_that_sends_nan_differs(serve: Any) -> None:
    for text in ("NaN", "null", "Infinity"):
        body = json.dumps([[0.5] * 384] * 7 + [["x"] + [0.5] * 383]).replace('"x"', text)
        report = crosscheck(http_endpoint(serve(answering(body)).url("/embed")))
        assert report.causes[0].name == "not-finite"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"data": [{"index": 0}] * 8}, "index numbers are not 0 to 7"),
        ({"data": [{"index": i, "embedding": "%%"} for i in range(8)]}, "neither a list nor base64"),
        ({"error": "quota"}, "wanted an object with data"),
    ],
)
def test_a_wrong_open_ai_answer_is_one_line(serve: Any, body: Any, message: str) -> None:
    with pytest.raises(CannotCompareError, match=message):
        crosscheck(http_endpoint(serve(answering(json.dumps(body))).url("/v1/embeddings")))


def test_base64_of_the_wrong_byte_order_is_seen(serve: Any) -> None:
    server = serve(lambda handler, body: open_ai(handler, body, ">384f"))
    with pytest.raises(CannotCompareError, match="'float' and 'base64' give different vectors"):
        crosscheck(http_endpoint(server.url("/v1/embeddings")))


def test_no_server_is_one_line() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(CannotCompareError, match="refused"):
        crosscheck(http_endpoint(f"http://127.0.0.1:{port}/embed", timeout=5))
    with pytest.raises(CannotCompareError, match="wanted http://host"):
        http_endpoint("http:///embed")


# --- the command line


def test_functions_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_backend_for_a_test.py").write_text(
        "from minilm_np import SentenceTransformer\n"
        "model = SentenceTransformer(backend='numpy')\n"
        "def right(texts): return model.encode(texts, truncation='ignore')\n"
        "def doubled(texts): return right(texts) * 2\n"
        "number = 1\n"
    )
    name = "my_backend_for_a_test"
    assert main(["crosscheck", f"{name}:right"]) == 0
    arguments = ["--json", "out.json", "--junit", "out.xml", "--no-causes"]
    assert main(["crosscheck", f"{name}:doubled", *arguments]) == 1
    assert json.loads(Path("out.json").read_text())["ok"] is False
    assert ElementTree.parse("out.xml").getroot().get("failures") == "1"
    capsys.readouterr()
    for wrong in (f"{name}:nothing", f"{name}:number", f"{name}_2:right", name):
        assert main(["crosscheck", wrong]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1
    assert callable(load_function(f"{name}:right"))


def test_texts_and_goldens_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crosscheck", "--texts"]) == 0
    assert json.loads(capsys.readouterr().out) == probe_texts()
    assert main(["crosscheck"]) == 2
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    assert main(["goldens", str(tmp_path / "full")]) == 2
    assert "wanted a new or empty folder" in capsys.readouterr().err


# --- a user's own texts


def test_outputs_are_looked_at_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "right.npy", truth().embeddings)
    for option, message in (
        (["--json", str(tmp_path)], "--json: .* is a folder, wanted a file"),
        (["--junit", str(tmp_path / "no" / "out.xml")], "--junit: .*no is not a folder"),
        (["--timeout", "1e20"], "--timeout: found 1e.20, wanted seconds, more than 0 and at most"),
        (["--corpus", str(tmp_path / "right.npy"), "--threshold", "nan"], "--threshold: found nan, wanted a cosine"),
    ):
        assert main(["crosscheck", str(tmp_path / "right.npy"), *option]) == 2
        captured = capsys.readouterr()
        assert re.search(message, captured.err) and captured.err.count("\n") == 1 and captured.out == ""


def test_a_report_that_cannot_be_written_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "right.npy", truth().embeddings)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "out.json")

    monkeypatch.setattr("minilm_np.cli._write_atomically", full)
    assert main(["crosscheck", str(tmp_path / "right.npy"), "--json", str(tmp_path / "out.json")]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith("PASS") and captured.err == "minilm-np: error: out.json: No space left on device\n"


def test_equivalence_counts_what_changes() -> None:
    rng = np.random.default_rng(5)
    first = rng.standard_normal((30, 8))
    same = equivalence(first, first * 3)
    assert same.go and (same.flipped, same.crossing_pairs) == (0, 0) and "GO" in str(same)
    second = first + 0.2 * rng.standard_normal(first.shape)
    found = equivalence(first, second, k=5, threshold=0.5)
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second))
    pairs = [(i, j) for i in range(30) for j in range(i + 1, 30) if (a[i] @ a[j] >= 0.5) != (b[i] @ b[j] >= 0.5)]
    flipped, margin = 0, 0.0
    for i in range(30):
        near = [sorted(set(range(30)) - {i}, key=lambda j: -(x[i] @ x[j]))[:5] for x in (a, b)]
        lost, gained = set(near[0]) - set(near[1]), set(near[1]) - set(near[0])
        flipped += len(lost)
        if lost:
            margin = max(margin, max(a[i] @ a[j] for j in lost) - min(a[i] @ a[j] for j in gained))
    assert [(i, j) for i, j, *_ in found.crossings] == pairs and found.crossing_pairs == len(pairs) > 0
    assert found.flipped == flipped > 0 and found.neighbours == 150 and not found.go
    assert_close(found.worst_margin, margin, 1e-12, "margin")
    lines = np.ones((3, 8))  # the same thrice: cosines that are 1 but for rounding
    assert equivalence(lines, lines + 1e-9 * rng.standard_normal(lines.shape), threshold=1.0).go
    with pytest.raises(CannotCompareError, match="found 30 and 29 vectors"):
        equivalence(first, second[1:])
    with pytest.raises(CannotCompareError, match="second: vector 0 is zero"):
        equivalence(first, first * 0)


def test_equivalence_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: SentenceTransformer
) -> None:
    lines = [text for text in probe_texts() if "\n" not in text]
    (tmp_path / "lines.txt").write_text("\n".join(lines), encoding="utf-8")
    np.save(tmp_path / "right.npy", model.encode(lines, truncation="ignore"))
    np.save(tmp_path / "wrong.npy", np.random.default_rng(6).standard_normal((len(lines), 384)))
    corpus = ["--corpus", str(tmp_path / "lines.txt")]
    assert main(["crosscheck", str(tmp_path / "right.npy"), *corpus]) == 0
    assert main(["crosscheck", str(tmp_path / "wrong.npy"), *corpus, "--json", "-"]) == 1
    output = capsys.readouterr().out
    assert output.startswith("GO") and json.loads(output[output.index("{") :])["go"] is False
    assert main(["crosscheck", str(tmp_path / "right.npy"), *corpus, "--json", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text())["go"] is True
    np.savez(tmp_path / "other.npz", np.zeros((len(lines), 384)))
    (tmp_path / "backend_that_raises.py").write_text("def encode(texts): raise KeyError('x')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    capsys.readouterr()
    for arguments, message in (
        ([str(tmp_path / "other.npz"), *corpus], "found arr_0, wanted sentence_embedding"),
        (["backend_that_raises:encode", *corpus], "batch 0: raised KeyError"),
        ([str(tmp_path / "right.npy"), *corpus, "--junit", "x.xml"], "--junit: found it with --corpus"),
        ([str(tmp_path / "right.npy"), "--against", "x"], "--against: found it without --corpus"),
    ):
        assert main(["crosscheck", *arguments]) == 2
        captured = capsys.readouterr()
        assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""


# --- pytest


def test_the_assertion(model: SentenceTransformer) -> None:
    assert_matches_minilm(lambda texts: model.encode(texts, truncation="ignore"))
    with pytest.raises(AssertionError, match="cause    pooling-cls"):
        assert_matches_minilm(made_with("pooling-cls"))


def test_the_plugin(tmp_path: Path, weights_folder: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "def test_right(assert_matches_minilm, minilm_goldens):\n"
        "    assert_matches_minilm(minilm_goldens.embeddings)\n"
        "def test_wrong(assert_matches_minilm, minilm_goldens):\n"
        "    assert_matches_minilm(minilm_goldens.embeddings[::-1])\n"
    )
    environment = {**os.environ, "MINILM_NP_WEIGHTS": str(weights_folder)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert "1 failed, 1 passed" in run.stdout, run.stdout + run.stderr
    assert "cause    rows-out-of-order" in run.stdout


# --- formats


def test_bfloat16_rounds_to_the_nearest_and_ties_to_even() -> None:
    x = np.array([1.0, 1.00390625, 1.01171875, -1.005, 3.0e38, np.inf, np.nan, 0.0], np.float32)
    wanted = np.array([1.0, 1.0, 1.015625, -1.0078125, 3.0040553e38, np.inf, np.nan, 0.0], np.float32)
    np.testing.assert_allclose(to_bf16(x), wanted, rtol=1e-5)
    assert np.array_equal(to_bf16(x)[:4], wanted[:4])


def test_the_numbers_in_the_docs_are_those_of_the_code() -> None:
    docs = REPOSITORY / "docs"
    page = (docs / "crosscheck.md").read_text(encoding="utf-8")
    assert f"{tolerance('sentence_embedding'):.1e} on the final vectors" in page
    assert K == 4 and "four times" in page and "four times" in (docs / "goldens.md").read_text(encoding="utf-8")
    matrix = page.split("<!-- confusion:begin -->")[1]
    made = [row.split(" | ") for row in matrix.splitlines() if re.search(r"\d\.\de[+-]\d\d \|$", row)]
    assert len(made) > 180 and {row[0].removeprefix("| ") for row in made} <= {mistake.name for mistake in catalogue()}
    first = sum(row[0] == f"| {row[1]}" for row in made)
    assert matrix.startswith(f"\n{first} of {len(made)} mistakes made in PyTorch are named first.")
