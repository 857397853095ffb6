"""The process that checks an answer: `python -m minilm_np.study.exercise.judge JOB`.

JOB is JSON: folder, seconds. The result is written to standard output: JSON with `results`, or with `error`, a message,
and `system`, whether it is an OSError.

The student's file runs in another process (child.py), which returns what each hole computes. Here these results are
compared with the right ones, in the tolerances of crosscheck, and a wrong one with what each known mistake would have
computed (wrong_answers.py): as in crosscheck, a mistake is the cause if it gives the same wrong numbers.
"""

from __future__ import annotations

import io
import json
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from minilm_np import weights
from minilm_np.crosscheck.causes import MAX_REMAINING, MIN_CANDIDATE_SHARE
from minilm_np.crosscheck.mistakes import Mistake, catalogue
from minilm_np.crosscheck.truth import tolerance
from minilm_np.model import Array
from minilm_np.study.exercise import holes
from minilm_np.study.exercise.holes import ACTIVATION_POINTS, EPS, Case, Exercise, activation_values, run, variant_of
from minilm_np.study.exercise.wrong_answers import known_mistakes
from minilm_np.study.exercises import WHOLE, HoleResult

ORDER = ("layer_norm", "embeddings", "attention", "feed_forward", "pooling", "encode", WHOLE)  # in which holes run
START_SECONDS = 120.0  # for the student's process to start and load the parameters, on a busy machine
PAIR_SECONDS = 2.5  # of CPU time for a hole's pairs of mistakes
MAX_HOPELESS_SHARE = 0.25  # a mistake that explains less of the first wrong case is not tried on the others
TIE = 10.0  # mistakes whose remaining errors differ by less than this factor explain a result equally well


def check(folder: Path, seconds: float) -> list[HoleResult]:
    """Return the results of all holes and, last, that of the whole model."""
    weights.find_or_fetch()  # before two processes need the files
    answers = _Answers(folder.resolve(), seconds)
    answers.start(ORDER)
    try:
        exercise = holes.load()  # while the process starts
        answers.collect()
    finally:
        answers.end()
    results = [judge_hole(hole, answers.of[hole], exercise) for hole in holes.HOLES]
    changing = [f"{hole} ({', '.join(answers.of[hole].changed)})" for hole in holes.HOLES if answers.of[hole].changed]
    return [*results, _judge_whole(answers.of[WHOLE], exercise, results, changing)]


# --- run the student's file --------------------------------------------------------------------


@dataclass
class Answer:
    """What a hole returned."""

    status: str  # "done", "missing", "not written", "raised", "bad" or "timeout"
    message: str = ""
    results: list[Array] = field(default_factory=list)  # of the first cases
    changed: list[str] = field(default_factory=list)  # arguments that were changed in place
    calls: list[dict[str, Any]] = field(default_factory=list)  # of the other holes' functions, by encode
    outputs: dict[int, Array] = field(default_factory=dict)  # of these calls


class _Answers:
    """Runs the holes of a file, in a new process after each hole that ended its process."""

    def __init__(self, folder: Path, seconds: float):
        self.folder, self.seconds = folder, seconds
        self.of: dict[str, Answer] = {}
        self.keep_layer_norm = False

    def start(self, holes: Sequence[str]) -> None:
        job = {"folder": str(self.folder), "holes": holes, "seconds": self.seconds}
        job["keep_layer_norm"] = self.keep_layer_norm
        command = [sys.executable, "-m", "minilm_np.study.exercise.child", json.dumps(job)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def collect(self) -> None:
        """Read the answers of the running process, and start others for what is left."""
        while True:
            self._read(self.process)
            left = [hole for hole in ORDER if hole not in self.of]
            if not left:
                return
            self.end()
            self.start(left)

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        """Read messages until the process ends. The hole that it was running gets an answer in any case."""
        assert process.stdout is not None
        running, limit = "", START_SECONDS
        messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=_forward, args=(process.stdout, messages), daemon=True).start()
        while True:
            try:
                message = messages.get(timeout=limit)
            except queue.Empty:
                process.kill()
                message = {"kind": "timeout", "message": f"not finished after {self.seconds:g} seconds"}
            if message is None:
                message = {"kind": "died", "message": "ends the process, as os._exit does, or crashes"}
            kind, says = message["kind"], message.get("message", "")
            if kind == "end":
                return
            if kind == "begin":
                running, limit = message["hole"], self.seconds + 5.0  # the process itself keeps the limit
            elif kind == "result":
                self.of[message["hole"]] = _answer(message)
                running = "" if message["hole"] == running else running
            elif kind == "unusable" or running in ("", "import"):
                raise ValueError(f"{self.folder / 'encoder.py'}: cannot be imported: {says or 'no answer'}")
            else:
                self.of[running] = Answer("timeout" if kind == "timeout" else "raised", says)
                return


def _forward(stream: Any, messages: queue.Queue[dict[str, Any] | None]) -> None:
    """Put the messages of a stream into a queue, and None at its end."""
    try:
        for message in _messages(stream):
            messages.put(message)
    except (OSError, ValueError):  # closed while reading
        pass
    messages.put(None)


def _messages(stream: BinaryIO) -> Iterator[dict[str, Any]]:
    while True:
        size = _read_exactly(stream, 8)
        data = _read_exactly(stream, int.from_bytes(size, "little"))
        if not size or not data:
            return
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            yield {**json.loads(str(arrays["header"])), "arrays": {k: arrays[k] for k in arrays.files if k != "header"}}


def _read_exactly(stream: BinaryIO, size: int) -> bytes:
    """Read this many bytes, or return b"" at the end."""
    parts = []
    while size:
        part = stream.read(size)
        if not part:
            return b""
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _answer(message: Mapping[str, Any]) -> Answer:
    arrays = message["arrays"]
    results = [arrays[f"result{i}"] for i in range(len(arrays)) if f"result{i}" in arrays]
    outputs = {i: arrays[f"call{i}"] for i in range(len(message.get("calls", []))) if f"call{i}" in arrays}
    return Answer(
        message["status"], message["message"], results, message.get("changed", []), message.get("calls", []), outputs
    )


# --- judge a hole ------------------------------------------------------------------------------


class _Difference(NamedTuple):
    """The largest error of a case, in tolerances, and a description of its element."""

    case: Case
    size: float  # inf for NaN and for another shape
    says: str


def _difference(case: Case, result: Array) -> _Difference | None:
    """Return the largest error if it is out of tolerance."""
    right = case.right
    if result.shape != right.shape:
        return _Difference(case, np.inf, f"expected shape {right.shape}, got {result.shape} for {case.label}")
    error = np.abs(result - right)
    error = np.where(np.isfinite(error), error, np.inf)
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(error)), error.shape))
    if error[index] <= case.tolerance:
        return None
    place = ", ".join(map(str, index))
    says = f"element [{place}]: expected {right[index]:.5g}, got {result[index]:.5g}"
    if np.isfinite(error[index]):
        says += f" (error {error[index]:.1e}, tolerance {case.tolerance:.1e})"
    return _Difference(case, float(error[index]) / case.tolerance, f"{says} for {case.label}")


def judge_hole(hole: str, answer: Answer, exercise: Exercise) -> HoleResult:
    if answer.status in ("missing", "not written"):
        says = f": {answer.message}" if answer.status == "missing" else ""
        return HoleResult(hole, "not written", None, None, f"not written yet{says}")
    if answer.status != "done":
        stage, name = _untransposed(answer.message) if hole == "feed_forward" else (None, None)
        return HoleResult(hole, "wrong", stage, name, f"wrong: {f'{name}: ' if name else ''}{answer.message}")
    cases = exercise.cases[hole]
    differences = [_difference(case, got) for case, got in zip(cases, answer.results, strict=True)]
    wrong = [one for one in differences if one is not None]
    if not wrong:
        return HoleResult(hole, "right", None, None, "right")
    shown = next((one for one in wrong if one.case.part is None), wrong[0])
    mistakes, closest = _explain(hole, cases, answer.results, exercise)
    if mistakes:
        name = " + ".join(mistake.name for mistake in mistakes)
        what = "; and ".join(mistake.description for mistake in mistakes)
        stage = _first_stage(mistakes, shown.case)
        if hole == "encode":
            stage = _first_wrong_call(answer, cases[0])[0] or stage
        return HoleResult(hole, "wrong", stage, name, f"wrong: {name}: {what}. First wrong stage {stage}: {shown.says}")
    stage, part, says = _place(hole, cases, answer, wrong)
    message = f"wrong: no known mistake explains it. First wrong stage {stage}"
    message += f" ({part}): {says or shown.says}" if part else f": {says or shown.says}"
    if closest:
        message += f". Closest known mistake: {closest}"
    return HoleResult(hole, "wrong", stage, None, message)


def _untransposed(message: str) -> tuple[str | None, str | None]:
    """Return stage and mistake if NumPy refused to multiply by a weight that is not square and not transposed.

    Both of NumPy's messages name the two sizes that should be equal, in the order below.
    """
    for sizes, name in (
        (r"size 1536 is different from 384|384 \(dim 1\) != 1536 \(dim 0\)", "intermediate"),
        (r"size 384 is different from 1536|1536 \(dim 1\) != 384 \(dim 0\)", "output"),
    ):
        if re.search(sizes, message):
            return f"encoder.layer.0.{name}", f"weight-transposed-{name}-all-layers"
    return None, None


def _judge_whole(
    answer: Answer, exercise: Exercise, results: Sequence[HoleResult], changing: Sequence[str]
) -> HoleResult:
    missing = [one.name for one in results if one.verdict == "not written"]
    if missing:
        return HoleResult(WHOLE, "not written", None, None, f"not run: {', '.join(missing)} not written yet")
    if answer.status != "done":
        return HoleResult(WHOLE, "wrong", None, None, f"wrong: {answer.message}")
    cases = exercise.cases["encode"]
    differences = [_difference(case, got) for case, got in zip(cases, answer.results, strict=True)]
    wrong = [one for one in differences if one is not None]
    if not wrong:
        return HoleResult(WHOLE, "right", None, None, "right")
    stage, says = _first_wrong_call(answer, cases[0])
    stage = stage or "sentence_embedding"
    message = f"wrong: first wrong stage {stage}: {says or wrong[0].says}"
    if all(one.verdict == "right" for one in results):
        message += (
            ". Each hole alone is right: does a function depend on earlier calls, or change its arguments in place?"
        )
        if changing:
            message += f" These do: {', '.join(changing)}"
    return HoleResult(WHOLE, "wrong", stage, None, message)


# --- which mistake -----------------------------------------------------------------------------


def _explain(
    hole: str, cases: Sequence[Case], results: Sequence[Array], exercise: Exercise
) -> tuple[tuple[Mistake, ...], str]:
    """Return the mistake, or the pair, that gives these results; or () and the closest one, if it explains nearly all.

    The rule is that of crosscheck/causes.py: a mistake fits if no element differs by more than MAX_REMAINING
    tolerances from what it gives. Of mistakes that fit equally well, the catalogue's order decides.
    """
    config = exercise.checkpoint.config
    mistakes = known_mistakes(hole, config)
    in_catalogue = {mistake.name for mistake in catalogue(config)}
    wrong = [i for i, case in enumerate(cases) if _difference(case, results[i]) is not None]
    first = min(wrong, key=lambda i: (cases[i].part is not None, cases[i].size))
    fits: list[tuple[float, bool, int, int, tuple[Mistake, ...]]] = []
    closest, share = "", MIN_CANDIDATE_SHARE
    alone: dict[str, float] = {}  # mistake -> what it explains of one case

    def attempt(hypothesis: tuple[Mistake, ...], rank: int) -> None:
        nonlocal closest, share
        explained, remaining = _compare(hypothesis, [cases[first]], [results[first]])
        if len(hypothesis) == 1:
            alone[hypothesis[0].name] = explained
        if explained < MAX_HOPELESS_SHARE or (len(hypothesis) > 1 and not _is_fit(explained, remaining)):
            return
        explained, remaining = _compare(hypothesis, cases, results)
        extent = sum(len(value) for one in hypothesis for _, value in one.change if isinstance(value, frozenset))
        name = " + ".join(one.name for one in hypothesis)
        if _is_fit(explained, remaining):
            other = any(one.name not in in_catalogue for one in hypothesis)
            fits.append((remaining, other, extent, rank, hypothesis))
        elif explained > share and len(hypothesis) == 1:
            closest, share = f"{name}, which explains {100 * explained:.2f} %", explained

    for rank, mistake in enumerate(mistakes):
        attempt((mistake,), rank)
    if not fits and hole != "encode":
        end = time.process_time() + PAIR_SECONDS
        general = [
            one for one in mistakes if not any(f"-layer-{i}" in one.name for i in range(config.num_hidden_layers))
        ]
        general.sort(key=lambda one: -alone[one.name])  # the time may be over before the last pairs
        for rank, pair in enumerate(_pairs(general, {one.name: i for i, one in enumerate(mistakes)})):
            if fits or time.process_time() > end:
                break
            attempt(pair, rank)
    if not fits:
        return (), closest
    least = min(remaining for remaining, *_ in fits)
    return min((fit for fit in fits if fit[0] <= TIE * least + 0.01), key=lambda fit: fit[1:4])[-1], ""


def _pairs(mistakes: Sequence[Mistake], order: Mapping[str, int]) -> Iterator[tuple[Mistake, Mistake]]:
    """Yield the pairs that an answer can make, those of the first mistakes first; each in the given order."""
    for i, first in enumerate(mistakes):
        for second in mistakes[i + 1 :]:
            if not first.clashes_with(second):
                yield (first, second) if order[first.name] < order[second.name] else (second, first)


def _is_fit(explained: float, remaining: float) -> bool:
    return remaining <= MAX_REMAINING and explained >= MIN_CANDIDATE_SHARE


def _compare(hypothesis: tuple[Mistake, ...], cases: Sequence[Case], results: Sequence[Array]) -> tuple[float, float]:
    """Return the share of the squared difference that the mistakes explain, and the largest rest in tolerances.

    Elements that are not finite, and results of another shape than the right one, are explained by the same again.
    """
    variant = variant_of(hypothesis)
    whole, left, remaining = 0.0, 0.0, 0.0
    for case, got in zip(cases, results, strict=True):
        made = run(case, variant)
        if made.shape != got.shape:
            return 0.0, np.inf
        odd = ~np.isfinite(got)
        if not np.array_equal(odd, ~np.isfinite(made)):
            return 0.0, np.inf
        rest = np.where(odd, 0.0, got - np.where(odd, 0.0, made))
        rest = np.where(odd, 0.0, rest)
        remaining = max(remaining, float(np.abs(rest).max(initial=0)) / case.tolerance)
        left += float(np.square(rest).sum())
        if got.shape == case.right.shape and not odd.any():
            whole += float(np.square(got - case.right).sum())
        else:
            whole = np.inf
    return (1.0 if whole == np.inf else 1 - left / whole if whole else 0.0), remaining


def _first_stage(mistakes: tuple[Mistake, ...], case: Case) -> str:
    """Return the first stage that these mistakes change in a case."""
    right: dict[str, Any] = {}
    made: dict[str, Any] = {}
    run(case, None, right.__setitem__)
    run(case, variant_of(mistakes), made.__setitem__)
    for stage, value in right.items():
        pairs = zip(value, made[stage], strict=True) if isinstance(value, list) else [(value, made.get(stage))]
        for expected, got in pairs:
            if got is None or got.shape != expected.shape or not np.abs(got - expected).max() <= tolerance(stage):
                return stage
    return case.part[0] if case.part and case.hole == "layer_norm" else case.stage


# --- which part, for a mistake that is not known -----------------------------------------------


def _place(hole: str, cases: Sequence[Case], answer: Answer, wrong: Sequence[_Difference]) -> tuple[str, str, str]:
    """Return the first wrong stage, the part of the hole, and what shows it, or "" for the largest error."""
    if hole == "encode":
        stage, says = _first_wrong_call(answer, cases[0])
        return stage or "sentence_embedding", "", says
    if hole == "pooling":
        return _place_pooling(cases, answer)
    if any(one.size == np.inf and one.case.part is None for one in wrong):
        return wrong[0].case.stage, "", ""
    parts = [one for one in wrong if one.case.part is not None and one.case.part[1] != EPS]
    if not parts and all(one.case.part is not None for one in wrong):
        return wrong[0].case.stage, EPS, wrong[0].says
    if hole == "feed_forward" and not any(one.case.part and one.case.part[1] != "GELU" for one in parts):
        says = _activation_says(cases, answer)
        if says:
            return f"{cases[0].stage.removesuffix('output')}intermediate", "GELU", says
    if hole == "embeddings" and len(parts) >= 3:  # whatever the tables hold
        return "embeddings", "LayerNorm", parts[0].says
    if not parts:
        return wrong[0].case.stage, "", ""
    stage, part = parts[0].case.part or ("", "")
    if hole == "layer_norm" and part == "mean or variance":
        return _place_norm(cases, answer)
    return stage, part, parts[0].says


def _place_norm(cases: Sequence[Case], answer: Answer) -> tuple[str, str, str]:
    """Say whether rows of weight 1 and bias 0 have mean 0 and variance 1."""
    result = next(
        got for case, got in zip(cases, answer.results, strict=True) if case.part == ("LayerNorm", "mean or variance")
    )
    mean, variance = float(result[0].mean()), float(result[0].var())
    if abs(mean) > 1e-4:
        return "LayerNorm.mean", "mean", f"with weight 1 and bias 0, row 0 has mean {mean:.4g} instead of 0"
    if abs(variance - 1) > 1e-4:
        return (
            "LayerNorm.variance",
            "variance",
            f"with weight 1 and bias 0, row 0 has variance {variance:.4g} instead of 1",
        )
    return "LayerNorm", "mean or variance", ""


def _activation_says(cases: Sequence[Case], answer: Answer) -> str:
    """Say at which point the activation is wrong most, or return ""."""
    for case, result in zip(cases, answer.results, strict=True):
        if case.part and case.part[1] == "GELU" and result.shape == case.right.shape:
            with np.errstate(all="ignore"):
                got, right = activation_values(result), activation_values(case.right)
            error = np.where(np.isfinite(got), np.abs(got - right), np.inf)
            i = int(np.argmax(error))
            if error[i] > 1e-5:
                return f"GELU({ACTIVATION_POINTS[i]:g}): expected {right[i]:.6f}, got {got[i]:.6f}"
    return ""


def _place_pooling(cases: Sequence[Case], answer: Answer) -> tuple[str, str, str]:
    """Say whether only the length is wrong, or with which weights the tokens' vectors were added."""
    for case, result in zip(cases, answer.results, strict=True):
        if result.shape != case.right.shape or not np.isfinite(result).all():
            return "pooled", "", ""
    result, right = answer.results[1], cases[1].right
    length = float(np.linalg.norm(result))
    if length and np.abs(result / length - right).max() <= cases[1].tolerance:
        return (
            "sentence_embedding",
            "the length",
            f"the direction is right, but the length is {length:.4g} instead of 1",
        )
    rows = cases[1].arguments["hidden_states"]
    weights = np.linalg.lstsq(rows.T, result, rcond=None)[0]
    if np.abs(weights @ rows - result).max() < 1e-4 * max(length, 1e-12):
        shown = ", ".join(f"{weight:.3f}" for weight in weights / np.abs(weights).sum())
        return "pooled", "weights", f"the tokens of {cases[1].label} have the weights {shown} instead of equal ones"
    return "pooled", "", ""


def _first_wrong_call(answer: Answer, case: Case) -> tuple[str | None, str]:
    """Return the first stage at which the calls of encode differ from the right ones, and in what."""
    right: dict[str, Any] = {}
    run(case, None, right.__setitem__)
    expected: list[tuple[str, int | None, str]] = [("embeddings", None, "embeddings")]
    for i in range(6):
        expected.append(("attention", i, f"encoder.layer.{i}.attention.output"))
        expected.append(("feed_forward", i, f"encoder.layer.{i}.output"))
    expected.append(("pooling", None, "sentence_embedding"))
    for number, (name, layer, stage) in enumerate(expected):
        wanted = f"{name}, layer {layer}" if layer is not None else name
        if number >= len(answer.calls):
            return stage, f"expected {len(expected)} calls of the other functions, got {number}: {wanted} is missing"
        call = answer.calls[number]
        made = call["name"] if call["layer"] is None else f"{call['name']}, layer {call['layer']}"
        if (call["name"], call["layer"]) != (name, layer):
            return stage, f"call {number + 1} of the other functions: expected {wanted}, got {made}"
        output, wanted_output = answer.outputs.get(number), right[stage]
        wanted_output = wanted_output[0] if name == "pooling" else wanted_output
        if output is None or output.shape != wanted_output.shape:
            shape = "none" if output is None else output.shape
            return stage, f"{wanted}: expected an array {wanted_output.shape}, got {shape}"
        if not np.abs(output - wanted_output).max() <= tolerance(stage):
            if number and call["source"] != number - 1:
                source = answer.calls[call["source"]] if call["source"] >= 0 else None
                got = (
                    "another array" if source is None else f"the result of call {call['source'] + 1}, {source['name']}"
                )
                return stage, f"call {number + 1}, {wanted}: expected the result of the call before it, got {got}"
            error = float(np.abs(output - wanted_output).max())
            return stage, f"{wanted} returned an error of {error:.1e} (tolerance {tolerance(stage):.1e})"
    if len(answer.calls) > len(expected):
        return "sentence_embedding", f"expected {len(expected)} calls of the other functions, got {len(answer.calls)}"
    return None, ""


def main(job: str) -> None:
    given = json.loads(job)
    try:
        results = check(Path(given["folder"]), given["seconds"])
        print(json.dumps({"results": results}))
    except (OSError, ValueError) as error:
        print(json.dumps({"error": str(error), "system": isinstance(error, OSError)}))
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
