"""Training runs of a small model: what is written, what is refused, and that a killed run ends with the same bytes."""

from __future__ import annotations

import errno
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from support.kernels import needs_jit
from support.tiny import TINY, tiny_params, write_json, write_plain, write_tiny

from minilm_np import SentenceTransformer, cli, evaluation
from minilm_np.checkpoint import parameter_shapes
from minilm_np.training import (
    AdamW,
    CoSENTLoss,
    CosineSimilarityLoss,
    History,
    Loss,
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
    TrainingError,
    TripletLoss,
    clip_gradients,
    learning_rate_at,
    loss_and_gradients,
    retrieval_scores,
    run_folder,
    train,
)
from minilm_np.training.data import load

WORDS = ["bread", "butter", "river", "house", "cat", "dog", "moon", "tree", "road", "lamp", "chair", "green", "fast"]
RUN: dict[str, Any] = {
    "steps": 12,
    "batch_size": 6,
    "learning_rate": 1e-2,
    "warmup_steps": 2,
    "save_steps": 4,
    "threads": 2,
}


def pairs(n: int, seed: int = 0) -> list[list[str]]:
    """Pairs of texts that share two words; no text comes twice."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        a, b, *others = rng.sample(WORDS, 6)
        rows.append([f"{a} {b} {others[0]} {i}", f"{others[1]} {b} {a} {others[2]} {i}"])
    return rows


@pytest.fixture
def tiny(tmp_path: Path, weights_folder: Path) -> SentenceTransformer:
    return SentenceTransformer(write_tiny(tmp_path / "tiny", weights_folder), backend="numpy")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in pairs(40)))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- what a run does ---------------------------------------------------------------------------


def test_a_run_lowers_the_loss_and_leaves_a_model_folder(tiny: SentenceTransformer, data: Path, tmp_path: Path) -> None:
    before = {name: value.copy() for name, value in tiny.weights.items()}
    held_out = pairs(20, seed=1)
    history = train(tiny, data, **{**RUN, "steps": 60}, evaluate=held_out, eval_steps=30, output=tmp_path / "out")
    assert np.mean(history.losses[-10:]) < 0.8 * np.mean(history.losses[:10])
    assert [line["step"] for line in history.evaluations] == [0, 30, 60]
    lines = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()]
    assert [line for line in lines if "loss" in line] == history.steps
    assert [line for line in lines if "scores" in line] == history.evaluations
    assert any((value != before[name]).any() for name, value in tiny.weights.items())
    saved = SentenceTransformer(tmp_path / "out", backend="numpy")
    texts = [text for pair in held_out for text in pair]
    np.testing.assert_array_equal(saved.encode(texts), tiny.encode(texts))
    assert not (tmp_path / "out" / run_folder.CHECKPOINT).exists()
    card = (tmp_path / "out" / "README.md").read_text()
    for part in ("60 steps", "pairs.jsonl | 40 | 2", "| learning_rate | 0.01 |", f"{history.losses[-1]:.4f}"):
        assert part in card
    scores = history.evaluations[-1]["scores"]
    embeddings = tiny.encode([pair[0] for pair in held_out]), tiny.encode([pair[1] for pair in held_out])
    assert scores == pytest.approx(retrieval_scores(*embeddings))


def test_the_curves_are_drawn_if_matplotlib_is_there(tiny: SentenceTransformer, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the train extra")
    train(tiny, data, **RUN, evaluate=pairs(8, seed=1), output=tmp_path / "out")
    assert (tmp_path / "out" / run_folder.CURVES).read_bytes().startswith(b"\x89PNG")
    assert f"]({run_folder.CURVES})" in (tmp_path / "out" / "README.md").read_text()


def test_a_plain_bert_folder_is_trained_with_mean_pooling(tmp_path: Path, weights_folder: Path) -> None:
    model = SentenceTransformer(write_plain(tmp_path / "plain", weights_folder), backend="numpy")
    train(model, pairs(12), **RUN, output=tmp_path / "out")
    saved = SentenceTransformer(tmp_path / "out", backend="numpy")
    assert (saved.config.pooling_mode, saved.config.normalize) == ("mean", False)
    np.testing.assert_array_equal(saved.encode("bread"), model.encode("bread"))


def test_the_history_does_not_depend_on_where_the_examples_come_from(
    tiny: SentenceTransformer, data: Path, tmp_path: Path
) -> None:
    from_file = train(tiny, data, **RUN)
    again = SentenceTransformer(tmp_path / "tiny", backend="numpy")
    assert train(again, pairs(40), **RUN).losses == from_file.losses


def test_mini_batches_give_the_same_losses_also_with_dropout(tmp_path: Path, weights_folder: Path) -> None:
    folder = write_tiny(tmp_path / "tiny", weights_folder)
    losses = []
    for size in (None, 3, 1):
        model = SentenceTransformer(folder, backend="numpy", dtype="float64")
        losses.append(train(model, pairs(40), **RUN, dropout=0.3, mini_batch_size=size).losses)
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=1e-12)  # measured: 1.1e-15


def test_an_evaluator_sees_the_weights_of_its_step(tiny: SentenceTransformer) -> None:
    seen = []

    def evaluator(model: SentenceTransformer) -> float:
        seen.append(model.weights["encoder.layer.0.output.dense.weight"].copy())
        return float(len(seen))

    history = train(tiny, pairs(40), **RUN, evaluate=evaluator, eval_steps=6)
    assert [line["scores"] for line in history.evaluations] == [{"score": 1.0}, {"score": 2.0}, {"score": 3.0}]
    assert (seen[0] != seen[1]).any() and (seen[1] != seen[2]).any()
    np.testing.assert_array_equal(seen[2], tiny.weights["encoder.layer.0.output.dense.weight"])


def test_the_lines_of_the_held_out_file_decide_how_they_are_scored(tiny: SentenceTransformer, tmp_path: Path) -> None:
    a, b = ([row[column] for row in pairs(12, seed=1)] for column in (0, 1))
    c = [row[0] for row in pairs(12, seed=2)]
    path = tmp_path / "held-out.jsonl"

    def scores(lines: list[Any]) -> dict[str, float]:
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        history = train(tiny, pairs(40), **{**RUN, "steps": 2, "warmup_steps": 1}, evaluate=path)
        found: dict[str, float] = history.evaluations[-1]["scores"]
        return found

    triplets = scores([list(row) for row in zip(a, b, c, strict=True)])
    assert set(triplets) == {"accuracy@1", "mrr@10", "cosine_accuracy"}
    of_evaluator = evaluation.TripletEvaluator(a, b, c)(tiny)["cosine_accuracy"]
    assert triplets["cosine_accuracy"] == pytest.approx(of_evaluator, abs=1e-6)  # it is a float32
    for module in ("scipy", "sklearn"):
        pytest.importorskip(module, reason="needs the eval extra")
    keys = ("sentence1", "sentence2", "score")
    graded = [score / 11 for score in range(12)]
    similarity = scores([dict(zip(keys, row, strict=True)) for row in zip(a, b, graded, strict=True)])
    assert similarity == evaluation.EmbeddingSimilarityEvaluator(a, b, graded)(tiny)
    assert set(similarity) == {"pearson_cosine", "spearman_cosine"}
    binary = [score % 2 for score in range(12)]
    classified = scores([{"texts": [x, y], "label": label} for x, y, label in zip(a, b, binary, strict=True)])
    assert classified == evaluation.BinaryClassificationEvaluator(a, b, binary)(tiny)
    assert {"cosine_accuracy", "cosine_ap"} < set(classified)


def test_scored_pairs_without_scipy_are_refused_before_anything_is_written(
    tiny: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("minilm_np.training.trainer.find_spec", lambda _: None)
    held_out = tmp_path / "held-out.jsonl"
    lines = [{"texts": ["a cat", "a dog"], "label": 0.5}, {"texts": ["a cat", "cats"], "label": 0.9}]
    held_out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ImportError) as error:
        train(tiny, pairs(40), **RUN, evaluate=held_out, output=tmp_path / "out")
    expected = "evaluate: scipy is needed for pairs with scores and not installed; install minilm-np[eval]"
    assert str(error.value) == expected
    assert not (tmp_path / "out").exists()


def test_retrieval_scores() -> None:
    positives = np.eye(3)
    anchors = np.array([[1.0, 0, 0], [0.9, 1.0, 0], [1.0, 0.9, 0.8]])  # ranks 1, 1, 3
    assert retrieval_scores(anchors, positives) == pytest.approx({"accuracy@1": 2 / 3, "mrr@10": (1 + 1 + 1 / 3) / 3})
    many = np.random.default_rng(0).standard_normal((2500, 8))  # several blocks of rows
    assert retrieval_scores(many, many) == {"accuracy@1": 1.0, "mrr@10": 1.0}
    assert retrieval_scores(many, many[::-1])["accuracy@1"] == 0
    assert retrieval_scores(np.full((30, 3), np.nan), np.ones((30, 3))) == {"accuracy@1": 0.0, "mrr@10": 0.0}
    same = np.ones((3, 3))
    assert retrieval_scores(same, same) == {"accuracy@1": 1.0, "mrr@10": 1.0}  # equal texts are no mistake


# --- a run that ends early ---------------------------------------------------------------------


def test_an_interrupted_run_that_is_resumed_ends_with_the_same_bytes(
    tmp_path: Path, weights_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tiny(tmp_path / "tiny", weights_folder)
    options: dict[str, Any] = {**RUN, "evaluate": pairs(9, seed=1), "eval_steps": 5}

    def run(output: Path, **more: Any) -> History:
        return train(SentenceTransformer(folder, backend="numpy"), pairs(40), output=output, **options, **more)

    expected = run(tmp_path / "whole")
    for method in ("log", "save", "finish"):
        original, calls = getattr(run_folder.RunFolder, method), list[int]()

        stops = (1,) if method == "finish" else (2, 5, 6, 11)

        def stop(
            self: Any, *arguments: Any, original: Any = original, calls: list[int] = calls, stops: Any = stops
        ) -> None:
            calls.append(1)
            if len(calls) in stops:
                raise KeyboardInterrupt
            original(self, *arguments)

        monkeypatch.setattr(run_folder.RunFolder, method, stop)
        output = tmp_path / method
        for _ in range(6):
            try:
                history = run(output, resume=True)
                break
            except KeyboardInterrupt:
                continue
        monkeypatch.undo()
        assert len(calls) >= 2
        assert history == expected
        assert contents(output) == contents(tmp_path / "whole")


def test_killed_at_random_moments_a_run_ends_with_the_same_bytes(
    tmp_path: Path, weights_folder: Path, data: Path
) -> None:
    folder = write_tiny(tmp_path / "tiny", weights_folder)
    command = [sys.executable, "-m", "minilm_np", "train", str(data), "--model", str(folder), "--evaluate", str(data)]
    command += ["--steps=200", "--batch-size=8", "--save-steps=3", "--eval-steps=7", "--warmup-steps=5", "--resume"]
    command += ["--threads=2"]
    subprocess.run([*command, "-o", str(tmp_path / "whole")], check=True, capture_output=True)
    log = tmp_path / "killed" / "train.jsonl"
    rng = random.Random(5)
    kills = 0
    while kills < 100:
        size = log.stat().st_size if log.exists() else 0
        child = subprocess.Popen(
            [*command, "-o", str(log.parent)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if rng.random() < 0.8:  # else it is killed while it starts
            while child.poll() is None and (not log.exists() or log.stat().st_size <= size):
                time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.4))
        child.send_signal(signal.SIGKILL)
        if child.wait() == 0:
            break
        kills += 1
    assert kills >= 5
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_finished_run_that_is_resumed_gives_its_model_and_its_history(tmp_path: Path, weights_folder: Path) -> None:
    folder = write_tiny(tmp_path / "tiny", weights_folder)
    first = SentenceTransformer(folder, backend="numpy")
    history = train(first, pairs(40), **RUN, output=tmp_path / "out")
    before = contents(tmp_path / "out")
    again = SentenceTransformer(folder, backend="numpy")
    assert train(again, pairs(40), **RUN, output=tmp_path / "out", resume=True) == history
    np.testing.assert_array_equal(again.encode("bread"), first.encode("bread"))
    assert contents(tmp_path / "out") == before


def test_a_loss_that_is_not_a_number_names_step_and_lines_and_keeps_the_checkpoint(
    tmp_path: Path, weights_folder: Path
) -> None:
    params = tiny_params()
    rows = pairs(40)
    row = params["embeddings.word_embeddings.weight"]
    model = SentenceTransformer(write_tiny(tmp_path / "tiny", weights_folder, params), backend="numpy")
    word = model.tokens("zebra").token_ids[1]
    row[word] = 3e38  # finite, but a sum of two is not
    model = SentenceTransformer(write_tiny(tmp_path / "tiny", weights_folder, params), backend="numpy")
    before = model.encode("bread")
    with load(rows, seed=42) as batches:  # of the first batch that is drawn after the checkpoint of step 4
        later = next(source for source in batches.batch(5, 6).sources)
    line = int(later.split(":")[1])
    rows[line - 1][1] = "zebra 17"
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(pair) + "\n" for pair in rows))
    with pytest.raises(TrainingError) as error:
        train(model, data, **RUN, output=tmp_path / "out")
    message = f"step 6: expected a finite loss, got nan, from pairs.jsonl:{line}; a smaller learning_rate may help"
    assert str(error.value) == message
    np.testing.assert_array_equal(model.encode("bread"), before)
    size = sum(value.size for value in model.weights.values())
    checkpoint = run_folder.RunFolder(tmp_path / "out", {})
    assert checkpoint.restore(*(np.zeros(size, np.float32) for _ in range(3))) == 4


def test_a_full_disk_is_one_line_and_the_checkpoint_before_stays(
    tiny: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.numpy

    original, calls = safetensors.numpy.save_file, []

    def full(*arguments: Any, **options: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(*arguments, **options)

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(OSError, match="No space left on device") as error:
        train(tiny, pairs(40), **RUN, output=tmp_path / "out")
    checkpoint = tmp_path / "out" / run_folder.CHECKPOINT
    assert error.value.filename == str(checkpoint)
    folder = run_folder.RunFolder(tmp_path / "out", {})
    size = sum(value.size for value in tiny.weights.values())
    assert folder.restore(*(np.zeros(size, np.float32) for _ in range(3))) == 4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full, a disk that is full, is a device of Linux")
def test_a_disk_that_fills_while_the_log_is_written_is_one_line_and_the_run_can_be_resumed(
    tmp_path: Path, weights_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tiny(tmp_path / "tiny", weights_folder)
    train(SentenceTransformer(folder, backend="numpy"), pairs(40), **RUN, output=tmp_path / "whole")
    log, original, calls = tmp_path / "out" / run_folder.LOG, Path.open, list[int]()

    def full(self: Path, *arguments: Any, **options: Any) -> Any:
        if self == log and arguments == ("a",):
            calls.append(1)
            if len(calls) == 6:
                return original(Path("/dev/full"), *arguments, **options)
        return original(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left on device") as error:
        train(SentenceTransformer(folder, backend="numpy"), pairs(40), **RUN, output=log.parent)
    assert error.value.filename == str(log)
    train(SentenceTransformer(folder, backend="numpy"), pairs(40), **RUN, output=log.parent, resume=True)
    assert contents(log.parent) == contents(tmp_path / "whole")


def test_a_disk_that_fills_while_the_model_is_written_is_one_line_and_the_run_can_be_resumed(
    tmp_path: Path, weights_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_tiny(tmp_path / "tiny", weights_folder)
    whole, output = tmp_path / "whole", tmp_path / "out"
    train(SentenceTransformer(folder, backend="numpy"), pairs(40), **RUN, output=whole)
    original = os.replace
    written = sorted(contents(whole).keys() - {run_folder.LOG})
    assert "model.safetensors" in written and "README.md" in written
    for name in written:

        def full(source: Any, target: Any, name: str = name, **options: Any) -> None:
            finished = Path(name).name != run_folder.RECORD or b'"finished"' in Path(source).read_bytes()
            if Path(target) == output / name and finished:
                raise OSError(errno.ENOSPC, "No space left on device", str(source), None, str(target))
            original(source, target, **options)

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space left on device") as error:
            train(SentenceTransformer(folder, backend="numpy"), pairs(40), **RUN, output=output, resume=True)
        assert (error.value.filename, error.value.filename2) == (str(output / name), None)
        assert run_folder.CHECKPOINT in contents(output)
        monkeypatch.undo()
    train(SentenceTransformer(folder, backend="numpy"), pairs(40), **RUN, output=output, resume=True)
    assert contents(output) == contents(whole)


def test_a_last_step_that_destroys_the_parameters_is_not_saved(
    tiny: SentenceTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = AdamW.step

    def step(self: AdamW, *arguments: Any) -> None:
        original(self, *arguments)
        if self.steps == RUN["steps"]:
            self.params["embeddings.LayerNorm.weight"][3] = np.inf

    monkeypatch.setattr(AdamW, "step", step)
    before = tiny.encode("bread")
    with pytest.raises(TrainingError, match="got others in embeddings"):
        train(tiny, pairs(40), **RUN, output=tmp_path / "out")
    assert not (tmp_path / "out" / "model.safetensors").exists()
    np.testing.assert_array_equal(tiny.encode("bread"), before)


def test_what_is_not_finite_gives_no_warnings_from_threads(tmp_path: Path, weights_folder: Path) -> None:
    params = tiny_params()
    params["embeddings.LayerNorm.weight"][:] = 3e38
    model = SentenceTransformer(write_tiny(tmp_path / "tiny", weights_folder, params), backend="numpy")
    with pytest.raises(TrainingError, match="expected a finite loss"):  # warnings are errors here
        train(model, pairs(40), **RUN)


def test_numpy_numbers_are_arguments(tiny: SentenceTransformer, tmp_path: Path) -> None:
    options = {**RUN, "steps": np.int64(4), "batch_size": np.int32(6), "learning_rate": np.float32(1e-2)}
    assert len(train(tiny, pairs(40), **options, output=tmp_path / "out").steps) == 4


def test_the_order_of_large_labels_counts(tiny: SentenceTransformer) -> None:
    first = 1_700_000_000  # neighbours in float32 are 128 apart
    rows = [{"texts": pair, "label": first + i} for i, pair in enumerate(pairs(12))]
    assert min(train(tiny, rows, **{**RUN, "steps": 2, "warmup_steps": 1}).losses) > 0.1


def test_the_record_of_a_loss_is_the_same_in_each_process() -> None:
    from minilm_np.training.trainer import _description

    loss = MatryoshkaLoss(MultipleNegativesRankingLoss(scale=5.0), [4, 2])
    expected = "MultipleNegativesRankingLoss(scale=5.0, directions=('query_to_doc'), partition_mode='joint')"
    assert _description(loss) == f"MatryoshkaLoss(loss={expected}, matryoshka_dims=(4, 2), matryoshka_weights=None)"
    assert _description(MatryoshkaLoss(object(), [4])).startswith("MatryoshkaLoss(loss=object, ")  # type: ignore[arg-type]


def test_a_resumed_run_has_the_same_held_out_data_and_a_whole_log(tmp_path: Path, weights_folder: Path) -> None:
    folder, held_out = write_tiny(tmp_path / "tiny", weights_folder), tmp_path / "held-out.jsonl"
    log = tmp_path / "out" / run_folder.LOG

    def run() -> History:
        model = SentenceTransformer(folder, backend="numpy")
        return train(model, pairs(40), **RUN, evaluate=held_out, output=log.parent, resume=True)

    held_out.write_text('["a cat", "the cat"]\n["a dog", "the dog"]\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder.RunFolder, "finish", raise_interrupt)
        with pytest.raises(KeyboardInterrupt):
            run()
    held_out.write_text('["a cat", "the cat"]\n["a dog", "one dog"]\n')
    with pytest.raises(ValueError, match=r"^resume: evaluate: expected 'held-out.jsonl \(2 rows, sha256 "):
        run()
    held_out.write_text('["a cat", "the cat"]\n["a dog", "the dog"]\n')
    whole = log.read_text()
    first, second, *others = whole.splitlines(keepends=True)
    damaged = "".join([first, second[:9] + "\n", *others])
    log.write_text(damaged)
    with pytest.raises(ValueError) as error:
        run()
    assert str(error.value) == f"resume: {log}: expected the lines of 12 steps, got 0"
    assert log.read_text() == damaged
    log.write_text(whole)
    assert len(run().steps) == 12


def raise_interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps: expected a whole number from 1 to 2**63 - 1, got 0"),
        ({"batch_size": 2.5}, "batch_size: expected a whole number from 1 to 2**63 - 1, got 2.5"),
        ({"warmup_steps": -1}, "warmup_steps: expected a whole number from 0 to 2**63 - 1, got -1"),
        ({"learning_rate": float("nan")}, "learning_rate: expected a number from 0 to 1, got nan"),
        ({"max_grad_norm": -1}, "max_grad_norm: expected a number of at least 0, got -1"),
        ({"dropout": 1.0}, "dropout: expected a number from 0 to below 1, got 1.0"),
        ({"adam_beta1": 1.0}, "adam_beta1: expected a number from 0 to below 1, got 1.0"),
        ({"adam_beta2": 1}, "adam_beta2: expected a number from 0 to below 1, got 1"),
        ({"adam_epsilon": 0}, "adam_epsilon: expected a number from 1.17549e-38 to 1, got 0"),
        ({"scale": float("inf")}, "scale: expected a number from 0 to 3.40282e+38, got inf"),
        ({"loss": "mnrl"}, "loss: expected an object with value_and_gradients, got str"),
        ({"loss": TripletLoss()}, "examples: TripletLoss expects 3 texts in each, got 2"),
        ({"evaluate": []}, "evaluate: expected at least one example or file, got none"),
        ({"evaluate": [["a", 5]]}, "evaluate: row 1: text 2: expected a text, not empty, got 5"),
        ({"seed": -1}, "seed: expected a whole number from 0 to 2**63 - 1, got -1"),
        ({"max_seq_length": 2}, "max_seq_length: expected a whole number from 3 to 2**63 - 1, got 2"),
        ({"resume": True}, "resume: expected an output folder that has a checkpoint, got no output"),
        ({"mini_batch_size": 0}, "mini_batch_size: expected a whole number from 1 to 2**63 - 1, got 0"),
    ],
)
def test_a_bad_argument_is_named_before_anything_is_written(
    tiny: SentenceTransformer, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    output = {} if "resume" in changes else {"output": tmp_path / "out"}
    with pytest.raises(ValueError) as error:
        train(tiny, pairs(40), **{**RUN, **changes, **output})
    assert str(error.value) == message
    assert not (tmp_path / "out").exists()


def test_a_folder_with_files_is_refused_and_left_as_it_is(tiny: SentenceTransformer, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "notes.txt").write_text("mine")
    for resume, message in ((False, "a new or empty folder, got"), (True, "resume: expected training.json in")):
        with pytest.raises(ValueError, match=message):
            train(tiny, pairs(40), **RUN, output=output, resume=resume)
    assert contents(output) == {"notes.txt": b"mine"}


def test_a_run_is_resumed_only_with_its_own_arguments_data_and_model(
    tiny: SentenceTransformer, tmp_path: Path, weights_folder: Path
) -> None:
    train(tiny, pairs(40), **RUN, output=tmp_path / "out")
    folder = tmp_path / "tiny"
    before = contents(tmp_path / "out")
    for data, changes, message in (
        (pairs(40), {"batch_size": 7}, r"resume: batch_size: expected 6 as in .*training.json, got 7"),
        (
            pairs(40),
            {"dropout": 0.0},
            r"resume: dropout: expected \[0.1, 0.1\] as in .*training.json, got \[0.0, 0.0\]",
        ),
        (pairs(40, seed=3), {}, "resume: data: expected the data of .*, got a change in examples"),
    ):
        model = SentenceTransformer(folder, backend="numpy")
        with pytest.raises(ValueError, match=message):
            train(model, data, **{**RUN, **changes}, output=tmp_path / "out", resume=True)
    other = SentenceTransformer(write_tiny(tmp_path / "other", weights_folder, tiny_params(1)), backend="numpy")
    with pytest.raises(ValueError, match=r"resume: model: expected the model that the run in .* began with"):
        train(other, pairs(40), **RUN, output=tmp_path / "out", resume=True)
    assert contents(tmp_path / "out") == before


def test_another_number_of_threads_is_a_warning(tiny: SentenceTransformer, tmp_path: Path) -> None:
    pytest.importorskip("threadpoolctl", reason="needs the train extra")
    train(tiny, pairs(40), **RUN, output=tmp_path / "out")
    model = SentenceTransformer(tmp_path / "tiny", backend="numpy")
    with pytest.warns(UserWarning, match="resume: threads was 2 and is 1, so bytes may differ"):
        train(model, pairs(40), **{**RUN, "threads": 1}, output=tmp_path / "out", resume=True)


@needs_jit
def test_the_kernels_give_the_same_run_but_for_rounding_and_the_same_bytes_again(
    tmp_path: Path, weights_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("threadpoolctl", reason="needs the train extra")
    sizes: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 96}
    shapes = parameter_shapes(replace(TINY, **sizes))
    folder = write_tiny(tmp_path / "small", weights_folder, tiny_params(shapes=shapes), **sizes)
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True})

    def run(backend: str, output: Path, **more: Any) -> History:
        options = {**RUN, "learning_rate": 1e-3, "output": output, **more}
        return train(SentenceTransformer(folder, backend=backend), pairs(40), **options)

    by_numpy, by_kernels = run("numpy", tmp_path / "numpy"), run("numba", tmp_path / "numba")
    assert by_kernels.losses != by_numpy.losses  # other bits: the kernels were used
    np.testing.assert_allclose(by_kernels.losses, by_numpy.losses, rtol=5e-6)  # measured: 7.1e-7
    assert json.loads((tmp_path / "numba" / "training.json").read_text())["environment"]["op_set"] == "numba"

    assert run("numba", tmp_path / "again").losses == by_kernels.losses
    assert contents(tmp_path / "again") == contents(tmp_path / "numba")
    original = run_folder.RunFolder.log

    def interrupted(self: Any, line: dict[str, Any]) -> None:
        if line["step"] == 7:
            raise KeyboardInterrupt
        original(self, line)

    monkeypatch.setattr(run_folder.RunFolder, "log", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("numba", tmp_path / "resumed")
    monkeypatch.undo()
    assert run("numba", tmp_path / "resumed", resume=True).losses == by_kernels.losses
    assert contents(tmp_path / "resumed") == contents(tmp_path / "numba")
    with pytest.warns(UserWarning, match="resume: op_set was numba and is numpy, so bytes may differ"):
        run("numpy", tmp_path / "numba", resume=True)


def test_a_damaged_checkpoint_is_named(tiny: SentenceTransformer, tmp_path: Path) -> None:
    train(tiny, pairs(40), **RUN, output=tmp_path / "out")
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    del record["finished"]
    (tmp_path / "out" / "training.json").write_text(json.dumps(record))
    (tmp_path / "out" / run_folder.CHECKPOINT).write_bytes(b"123")
    model = SentenceTransformer(tmp_path / "tiny", backend="numpy")
    with pytest.raises(ValueError, match=r"checkpoint.safetensors: not a checkpoint of this run: "):
        train(model, pairs(40), **RUN, output=tmp_path / "out", resume=True)


def test_the_command_exits_2_with_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny: SentenceTransformer
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('["a", "b"]\n["a"]\n')
    base = ["train", "-o", str(tmp_path / "out"), "--model", str(tmp_path / "tiny"), "--steps=1"]
    for arguments in ([str(bad)], [str(data)], [str(tmp_path / "none.jsonl")], [str(data), "--steps=0"]):
        assert cli.main([*base, *arguments]) == 2  # the second: a batch of 1024 cannot be filled by 40 pairs
        captured = capsys.readouterr()
        assert captured.err.startswith("minilm-np: error: ") and captured.err.count("\n") == 1
        assert not (tmp_path / "out").exists()


# --- the loop, written out ---------------------------------------------------------------------

SYMMETRIC = MultipleNegativesRankingLoss(20.0, ("query_to_doc", "doc_to_query"), "per_direction")
LONG = "bread butter river house cat dog moon tree road lamp chair"
POOLER = {"weight": (8, 8), "bias": (8,)}
EXAMPLES: dict[str, tuple[list[Any], Loss]] = {
    "pairs": ([[f"{a} {LONG}", b] for a, b in pairs(12)], SYMMETRIC),
    "triplets": ([[a, b, f"{LONG} {a}"] for a, b in pairs(12)], MultipleNegativesRankingLoss(20.0)),
    "labels": ([{"texts": pair, "label": i % 5} for i, pair in enumerate(pairs(12))], CoSENTLoss(20.0)),
}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_run_is_the_loop_that_the_card_describes(kind: str, tmp_path: Path, weights_folder: Path) -> None:
    rows, loss = EXAMPLES[kind]
    folder = write_tiny(tmp_path / "tiny", weights_folder)
    steps, warmup, rate = 6, 2, 1e-2
    model = SentenceTransformer(folder, backend="numpy", dtype="float64")
    history = train(
        model, rows, steps=steps, batch_size=5, learning_rate=rate, warmup_steps=warmup, max_seq_length=7,
        weight_decay=0.1, max_grad_norm=0.05, adam_beta1=0.8, adam_beta2=0.9, adam_epsilon=1e-3, dropout=0, seed=3,
    )  # fmt: skip

    expected = SentenceTransformer(folder, backend="numpy", dtype="float64")
    expected.max_seq_length = 7
    adam = AdamW(expected.weights, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.1)
    with load(rows, seed=3) as batches:
        for step, line in enumerate(history.steps):
            batch = batches.batch(step, 5)
            value, gradients = loss_and_gradients(expected, batch.examples, loss=loss, labels=batch.labels)
            norm, clipped = clip_gradients(gradients, 0.05)
            assert norm > 0.05  # else clipping is not tested
            adam.step(clipped, learning_rate_at(step, rate, warmup, steps))
            expected.replace_weights(adam.params)
            assert line["loss"] == pytest.approx(value, rel=1e-13)  # measured: 4.4e-16
            assert line["grad_norm"] == pytest.approx(norm, rel=1e-13)  # measured: 2.2e-16
    for name, weight in model.weights.items():
        np.testing.assert_allclose(weight, expected.weights[name], rtol=0, atol=1e-13)  # measured: 5.6e-17


def test_each_step_has_its_own_dropout_masks(tiny: SentenceTransformer) -> None:
    rows = [{"texts": pairs(1)[0], "label": 0.5}]
    options: dict[str, Any] = {"steps": 3, "batch_size": 1, "learning_rate": 0.0, "loss": CosineSimilarityLoss()}
    losses = train(tiny, rows, **options, dropout=0.5).losses
    assert len(set(losses)) == 3  # the same example and parameters
    assert len(set(train(tiny, rows, **options, dropout=0).losses)) == 1
    assert train(tiny, rows, **options, dropout=0.5).losses == losses
    assert train(tiny, rows, **options, dropout=0.5, seed=1).losses != losses


def test_after_an_exception_the_model_has_its_old_weights(tiny: SentenceTransformer) -> None:
    before = tiny.encode("bread")

    def evaluator(model: SentenceTransformer) -> float:
        if (model.encode("bread") != before).any():
            raise RuntimeError("stop")
        return 0.0

    with pytest.raises(RuntimeError, match="stop"):
        train(tiny, pairs(40), **RUN, evaluate=evaluator, eval_steps=3)
    np.testing.assert_array_equal(tiny.encode("bread"), before)


def test_trained_weights_are_pickled_and_saved(tiny: SentenceTransformer, tmp_path: Path) -> None:
    train(tiny, pairs(40), **RUN)
    expected = tiny.encode("bread")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(tiny)).encode("bread"), expected)
    tiny.save_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(SentenceTransformer(tmp_path / "saved", backend="numpy").encode("bread"), expected)


def test_trained_weights_of_a_float16_checkpoint_are_saved_as_float32(tmp_path: Path, weights_folder: Path) -> None:
    params: Any = {name: value.astype(np.float16) for name, value in tiny_params().items()}
    params |= {f"pooler.dense.{kind}": np.full(shape, 0.5, np.float16) for kind, shape in POOLER.items()}
    model = SentenceTransformer(write_tiny(tmp_path / "half", weights_folder, params, dtype="float16"), backend="numpy")
    train(model, pairs(40), **RUN, output=tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {np.dtype(np.float32)}
    assert set(saved) == set(params)
    assert (saved["pooler.dense.weight"] == 0.5).all()
