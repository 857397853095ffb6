"""Cross-check a backend: is it right, where does it first go wrong, and why?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from minilm_np.crosscheck.causes import CANDIDATE, Cause, Evidence, Search
from minilm_np.crosscheck.probes import PROBES, TEXTS
from minilm_np.crosscheck.report import Report, StageResult, Worst
from minilm_np.crosscheck.truth import STAGE_ROWS, Truth, batches, simulator, tolerance, truth
from minilm_np.crosscheck.variant import Checkpoint
from minilm_np.model import Array, stage_names
from minilm_np.targets import CannotCompareError as CannotCompareError

FINAL = "sentence_embedding"
ALIASES = {"last_hidden_state": "encoder.layer.5.output", "token_embeddings": "encoder.layer.5.output"}
Encode = Callable[[list[str]], Any]
GetStages = Callable[[list[str]], Mapping[str, Any]]


def crosscheck(
    encode: Encode | Any = None,
    stages: GetStages | Mapping[str, Any] | None = None,
    *,
    tokenize: Callable[[list[str]], Any] | None = None,
    causes: bool = True,
    tried: Callable[[str], None] | None = None,
) -> Report:
    """Compare a backend of all-MiniLM-L6-v2 with this package in float64.

    encode: texts -> (n, 384), called with a few texts at a time (`probe_batches`); or the result for all of
        `probe_texts()`, (40, 384).
    stages: texts -> {stage: value}, called once with `stage_texts()`; or the result. Any of model.stage_names, and
        token_ids. A value is a list with one array for each text, (S, H), (N, S, S) or (H,); or packed rows (T, H);
        or padded on the right, (B, S, H) or (B, N, S, S).
    tokenize: texts -> a list of ids for each of `probe_texts()`; so that a wrong word piece is seen first.
    causes: whether to look for the mistake, where there is a difference: some seconds, half a minute for two at once.
    tried: called with the name of each mistake that is tried.

    Raises CannotCompareError if a backend fails, or gives something that cannot be compared; a wrong answer is
    reported instead.
    """
    if encode is None and stages is None and tokenize is None:
        raise CannotCompareError("crosscheck: found nothing to compare, wanted encode, stages or tokenize")
    right = truth()
    evidence: list[Evidence] = []
    results: list[StageResult] = []
    structural: list[Cause] = []

    def judge(one: Evidence) -> None:
        evidence.append(one)
        results.append(_judge(one, right))

    if tokenize is not None:
        ids = _call("tokenize", tokenize, list(TEXTS))
        judge(_evidence("token_ids", _ids(ids, len(TEXTS)), range(len(TEXTS)), batches(), right))
    if stages is not None:
        for name, value in _given_stages(stages, right):
            found = _ids(value, len(STAGE_ROWS)) if name == "token_ids" else _by_text(name, value, right)
            judge(_evidence(name, found, STAGE_ROWS, [range(len(STAGE_ROWS))], right))
    if encode is not None:
        vectors, together = _embeddings(encode, len(TEXTS))
        judge(_evidence(FINAL, list(vectors), range(len(TEXTS)), together, right))
        structural = _structure(vectors, right)
    report = Report(results, structural, searched=causes)
    if report.ok or not causes or structural:
        return report
    return _explain(report, evidence, right, tried)


def probe_texts() -> list[str]:
    """The texts that a backend is asked to embed, in order."""
    return list(TEXTS)


def probe_batches() -> list[list[str]]:
    """The same as they are handed to `encode`, call by call."""
    return [[TEXTS[row] for row in batch] for batch in batches()]


def stage_texts() -> list[str]:
    """The texts whose stages are compared."""
    return [TEXTS[row] for row in STAGE_ROWS]


# --- what the backend gave ---------------------------------------------------------------------


def _call(name: str, function: Callable[[list[str]], Any], texts: list[str]) -> Any:
    try:
        return function(texts)
    except CannotCompareError:
        raise
    except Exception as error:  # whatever a foreign backend raises
        raise CannotCompareError(
            f"{name}: raised {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from error


def _array(name: str, value: Any) -> Array:
    """Numbers as float64; what a framework calls a tensor is taken to NumPy first."""
    try:
        if hasattr(value, "detach"):  # a PyTorch tensor; NumPy has no bfloat16
            value = value.detach().cpu().float()
        array = np.asarray(value)
        if array.dtype.kind not in "fiu":
            raise TypeError(f"found {array.dtype}")
        return array.astype(np.float64)
    except (ValueError, TypeError, RuntimeError) as error:
        raise CannotCompareError(f"{name}: wanted numbers: {' '.join(str(error).split())[:200]}") from None


def _embeddings(encode: Any, n: int) -> tuple[Array, list[list[int]]]:
    """Final vectors (n, H) in float64, and which rows came together."""
    if not callable(encode):
        found = _array("encode", encode)
        _check_rows("encode", found, n)
        return found, [list(range(n))]
    return encode_in_batches("encode", encode, probe_batches()), batches()


def encode_in_batches(name: str, encode: Encode, texts: Iterable[list[str]]) -> Array:
    """A backend's vectors (n, D), float64, asked for batch by batch; CannotCompareError if it gives anything else."""
    parts: list[Array] = []
    for number, batch in enumerate(texts):
        what = f"{name}, batch {number}"
        part = _array(what, _call(what, encode, list(batch)))
        _check_rows(what, part, len(batch))
        if parts and part.shape[1] != parts[0].shape[1]:
            raise CannotCompareError(f"{what}: found {part.shape[1]} dimensions, wanted {parts[0].shape[1]} as before")
        parts.append(part)
    return np.concatenate(parts)


def _check_rows(name: str, found: Array, n: int) -> None:
    if found.ndim != 2 or len(found) != n or found.shape[1] == 0:
        raise CannotCompareError(f"{name}: found shape {found.shape}, wanted ({n}, 384): a vector for each text")


def _ids(value: Any, n: int) -> list[Array]:
    """Word pieces of n texts, without padding."""
    try:
        rows = [np.asarray(row) for row in value]
        if len(rows) != n or any(row.ndim != 1 or (row.size and row.dtype.kind not in "iu") for row in rows):
            raise ValueError
    except (TypeError, ValueError):
        raise CannotCompareError(f"token_ids: wanted a list of {n} lists of ids") from None
    return [row.astype(np.int64) for row in rows]


def _given_stages(stages: Any, right: Truth) -> Iterable[tuple[str, Any]]:
    """The stages given, under our names, in the order of the forward pass."""
    given = _call("stages", stages, stage_texts()) if callable(stages) else stages
    if not isinstance(given, Mapping) or not given:
        raise CannotCompareError(f"stages: found {type(given).__name__}, wanted a mapping of at least one stage's name")
    order = ["token_ids", *stage_names(right.checkpoint.config)]
    named: dict[str, Any] = {}
    for name, value in given.items():
        stage = ALIASES.get(str(name), str(name))
        if stage not in order:
            raise CannotCompareError(
                f"stages: found {stage!r}, wanted names such as embeddings, encoder.layer.0.output"
            )
        if stage in named:
            raise CannotCompareError(f"stages: {name!r} is another name of {stage}, which is there, too; wanted one")
        named[stage] = value
    return sorted(named.items(), key=lambda item: order.index(item[0]))


def _by_text(stage: str, value: Any, right: Truth) -> list[Array]:
    """One array for each text, of a list, of packed rows, or of rows padded on the right."""
    wanted = right.of(stage, STAGE_ROWS)
    lengths = [len(right.token_ids[row]) for row in STAGE_ROWS]
    n = len(lengths)
    if isinstance(value, list | tuple) and len(value) == n and not any(np.isscalar(part) for part in value):
        parts = [_array(f"stages[{stage!r}][{i}]", part) for i, part in enumerate(value)]
        return [part[0] if part.ndim == wanted[i].ndim + 1 and len(part) == 1 else part for i, part in enumerate(parts)]
    array = _array(f"stages[{stage!r}]", value)
    if array.ndim == 2 and wanted[0].ndim == 2 and len(array) == sum(lengths):
        return np.split(array, np.cumsum(lengths)[:-1])
    if array.ndim == wanted[0].ndim + 1 and len(array) == n:
        if wanted[0].ndim == 1:
            return list(array)
        if stage.endswith("attention_probs"):
            return [part[:, :length, :length] for part, length in zip(array, lengths, strict=True)]
        return [part[:length] for part, length in zip(array, lengths, strict=True)]
    raise CannotCompareError(
        f"stages[{stage!r}]: found shape {array.shape}; wanted a list of {n} arrays, {sum(lengths)} packed rows, or "
        f"({n}, {max(lengths)}, ...) padded on the right"
    )


def _evidence(stage: str, found: list[Array], rows: Sequence[int], together: Any, right: Truth) -> Evidence:
    return Evidence(
        stage, list(rows), [list(batch) for batch in together], found, right.of(stage, rows), tolerance(stage)
    )


# --- how far off it is -------------------------------------------------------------------------


def _judge(evidence: Evidence, right: Truth) -> StageResult:
    stage, allowed = evidence.stage, evidence.tolerance
    worst_error = -1.0
    worst: tuple[int, tuple[int, ...]] = (0, ())  # which of the texts, which element
    for i, (row, found, wanted) in enumerate(zip(evidence.rows, evidence.found, evidence.wanted, strict=True)):
        if found.shape != wanted.shape:
            what = f"shape: found {found.shape}, wanted {wanted.shape}"
            if stage == "token_ids":
                what = f"word pieces: found {len(found)}, wanted {len(wanted)}"
            return StageResult(stage, np.inf, allowed, None, f"probe {PROBES[row].name!r}: {what}")
        error = np.abs(found - wanted)
        error = np.where(np.isfinite(error), error, np.inf)
        index = np.unravel_index(int(np.argmax(error)), error.shape)
        if error[index] > worst_error:
            worst_error, worst = float(error[index]), (i, tuple(int(place) for place in index))
    i, place = worst
    row, found, wanted = evidence.rows[i], evidence.found[i][place], evidence.wanted[i][place]
    token = None if worst_error <= allowed else _token(stage, place, right.token_ids[row], right.checkpoint)
    element = Worst(PROBES[row].name, PROBES[row].text, place, token, float(found), float(wanted))
    return StageResult(stage, worst_error, allowed, element)


def _token(stage: str, index: tuple[int, ...], ids: Array, checkpoint: Checkpoint) -> str | None:
    """The word piece that an element belongs to."""
    if stage in ("pooled", FINAL):
        return None
    from tokenizers import Tokenizer

    place = index[1] if stage.endswith("attention_probs") else index[0]
    tokenizer = Tokenizer.from_file(str(checkpoint.folder / "tokenizer.json"))
    return str(tokenizer.id_to_token(int(ids[place])))


# --- why ---------------------------------------------------------------------------------------


def _structure(found: Array, right: Truth) -> list[Cause]:
    """Causes that are seen without making any mistake."""
    H = right.embeddings.shape[1]
    if found.shape[1] != H:
        says = f"vectors have {found.shape[1]} dimensions, this model's {H}: another model, or truncated vectors"
        return [Cause("other-dimension", 1.0, says, 0.0)]
    bad = ~np.isfinite(found).all(axis=1)
    if bad.any():
        rows = ", ".join(PROBES[row].name for row in np.flatnonzero(bad)[:5])
        return [Cause("not-finite", 1.0, f"{bad.sum()} of {len(found)} vectors have NaN or infinity ({rows})", 0.0)]
    lengths = np.linalg.norm(found, axis=1)
    if (lengths == 0).all():
        return [Cause("all-zero", 1.0, "every vector is zero", 0.0)]
    return []


def _explain(report: Report, evidence: list[Evidence], right: Truth, tried: Callable[[str], None] | None) -> Report:
    """The report with its causes. Asked of the first stage that is wrong, and of the last that is."""
    wrong = [one for one, result in zip(evidence, report.stages, strict=True) if not result.ok]
    chosen = [wrong[0]] if len(wrong) == 1 else [wrong[0], wrong[-1]]
    if any(not np.isfinite(f).all() for one in chosen for f in one.found):
        says = f"{chosen[0].stage} has NaN or infinity"
        return replace(report, causes=[Cause("not-finite", 1.0, says, 0.0)])
    # of all texts: a dump of stages has some
    whole = [one for one in wrong if one.stage == FINAL and len(one.rows) == len(TEXTS)]
    final = np.stack(whole[0].found) if whole else None
    moved = None if final is None else _rows(final, right.embeddings)
    if moved:  # right vectors in wrong places: only an order can be the mistake
        search = Search(simulator(), right.token_ids, chosen, tried, lambda m: m.change[0][0] == "rows", pairs=False)
    else:
        strange = None if final is None else _unrelated(final, right.embeddings)
        fine = [one for one, result in zip(evidence, report.stages, strict=True) if result.ok]
        fine = [one for one in fine if one.stage not in ("token_ids", FINAL)]
        search = Search(simulator(), right.token_ids, chosen, tried, pairs=strange is None, right=fine)
    causes = search.causes()
    seen = moved or strange
    if seen and not (causes and causes[0].fits):
        causes = [seen, *causes]
    closest = search.closest if not causes and search.closest and search.closest.explained < CANDIDATE else None
    return replace(report, causes=causes, closest=closest)


def _rows(found: Array, right: Array) -> Cause | None:
    """Right vectors in wrong places."""
    nearest = np.argmax(found @ right.T, axis=1)
    remaining = float(np.abs(found - right[nearest]).max()) / tolerance(FINAL)
    if remaining > 1 or (nearest == np.arange(len(right))).all():
        return None
    moved = int(np.sum(nearest != np.arange(len(right))))
    if len(set(nearest.tolist())) == len(right):
        return Cause("rows-out-of-order", 1.0, f"{moved} right vectors are in the place of others", remaining)
    return Cause("rows-repeated", 1.0, f"{moved} rows have the vector of another text", remaining)


def _unrelated(found: Array, right: Array) -> Cause | None:
    """Vectors that know nothing of the right ones: a text's own is no nearer than those of other texts.

    With c the cosines of found and right rows, each less the mean of its row and column: under no relation those of
    the same text have mean 0, and an error of their mean of their spread / sqrt(n). Also the similarities among the
    found vectors say nothing of those among the right ones (their correlation is below 0.5).
    """
    n = len(right)
    unit = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)
    cosines = unit @ right.T
    cosines = cosines - cosines.mean(axis=0) - cosines.mean(axis=1)[:, None] + cosines.mean()
    own = np.diagonal(cosines)
    others = np.triu_indices(n, 1)
    with np.errstate(invalid="ignore"):
        among = np.corrcoef((unit @ unit.T)[others], (right @ right.T)[others])[0, 1]
    if own.mean() > 3 * cosines.std() / np.sqrt(n) or among > 0.5:
        return None
    return Cause(
        "unrelated-vectors", 1.0, "a text's vector is no nearer to the right one than to any: another model?", 0.0
    )
