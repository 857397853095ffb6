"""Cross-check a port of all-MiniLM-L6-v2: compare its numbers with the float64 reference, then search for the cause.

`crosscheck` collects the port's word pieces, stages and final vectors, in the order of the forward pass, finds the
largest error of each, and hands the first and the last stage out of tolerance to the cause search of causes.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from minilm_np.crosscheck.causes import CPU_SECONDS, Cause, Evidence, Search
from minilm_np.crosscheck.form import Form, constant_vector, recognize
from minilm_np.crosscheck.placement import of_stage, place
from minilm_np.crosscheck.probes import PROBES, TEXTS
from minilm_np.crosscheck.report import Report, StageResult, Worst
from minilm_np.crosscheck.truth import STAGE_ROWS, Truth, batches, simulator, tolerance, truth
from minilm_np.crosscheck.variant import Checkpoint, Variant
from minilm_np.model import Array, stage_names
from minilm_np.targets import CannotCompareError as CannotCompareError

FINAL = "sentence_embedding"
ALIASES = {"last_hidden_state": "encoder.layer.5.output", "token_embeddings": "encoder.layer.5.output"}
MAX_NUMBERS = 2**26  # in one value; the largest right one, attention_probs padded to 256 tokens, has 9.4 million
Encode = Callable[[list[str]], Any]
GetGradients = Callable[[list[list[str]]], Any]
GetStages = Callable[[list[str]], Mapping[str, Any]]


def crosscheck(
    encode: Encode | Any = None,
    stages: GetStages | Mapping[str, Any] | None = None,
    *,
    tokenize: Callable[[list[str]], Any] | None = None,
    causes: bool = True,
    tried: Callable[[str], None] | None = None,
    thorough: bool = False,
    gradients: GetGradients | Any = None,
    optimizer: Callable[..., Mapping[str, Any]] | None = None,
) -> Report:
    """Compare a port of all-MiniLM-L6-v2 with this package's float64 reference.

    Parameters
    ----------
    encode
        A function from a list of str to vectors (n, 384), called once for each of `probe_batches()`; or the vectors
        (40, 384) of all `probe_texts()`.
    stages
        A function from a list of str to {stage: value}, called once with `stage_texts()`; or its result. The keys are
        any of the names that `SentenceTransformer.stages` returns, and token_ids. A value is a list with one array
        per text, (S, H), (N, S, S) or (H,); packed rows (T, H); or an array padded on the right, (B, S, H) or
        (B, N, S, S).
    tokenize
        A function from a list of str to lists of token ids, called once with `probe_texts()`. With it, a wrong word
        piece is the first difference in the report.
    causes
        Whether to search for the mistake behind a difference. This takes at most about 30 seconds of CPU time.
    tried
        Called with the name of each mistake that the search tries.
    thorough
        Whether to search for as long as it takes: all mistakes and pairs of mistakes, some minutes.
    gradients
        A function from `gradient_examples()`, rows of [anchor, positive], to {parameter: gradient} or to a tuple of the
        loss and these; or its result. It is called twice. The loss is MultipleNegativesRankingLoss: the mean over
        anchors of the cross entropy of choosing an anchor's positive among all positives, by 20 times the cosine; in
        this direction only, and without dropout. The names are those of the checkpoint, with any prefix such as
        "0.auto_model."; a pooler is ignored. Passed without the arguments above.
    optimizer
        A function (parameters, gradients, learning_rates, weight_decay) -> parameters after len(gradients) steps of
        AdamW, with betas (0.9, 0.999), eps 1e-8, and no decay of biases and LayerNorm; it gets a dict of float64
        arrays, a list of such dicts, a list of float, and a float. Passed without the arguments above.

    Returns
    -------
    Report
        The errors of all stages given and the causes of a difference. Wrong values do not raise an exception. Of
        gradients and of an optimizer it is a `GradientReport`, whose stages are parameters.

    Raises
    ------
    CannotCompareError
        If the port raises an exception, or returns values that cannot be compared.
    """
    if gradients is not None or optimizer is not None:
        given = [value for value in (encode, stages, tokenize, gradients, optimizer) if value is not None]
        if len(given) > 1:
            raise CannotCompareError("crosscheck: expected gradients or optimizer alone, got another port with it")
        # they need this module, and training, which other checks do not need
        if optimizer is not None:
            from minilm_np.crosscheck.optimizer import check_optimizer

            return check_optimizer(optimizer, causes=causes)
        from minilm_np.crosscheck.gradients import CPU_SECONDS as SECONDS
        from minilm_np.crosscheck.gradients import check_gradients

        return check_gradients(gradients, causes=causes, tried=tried, seconds=math.inf if thorough else SECONDS)
    if encode is None and stages is None and tokenize is None:
        raise CannotCompareError("crosscheck: expected encode, stages or tokenize, got none of them")
    reference = truth()
    evidence: list[Evidence] = []
    results: list[StageResult] = []
    structural: list[Cause] = []

    def judge(stage: str, values: list[Array], rows: Sequence[int], together: Iterable[Iterable[int]]) -> None:
        expected = reference.of(stage, rows)
        evidence.append(Evidence(stage, list(rows), list(map(list, together)), values, expected, tolerance(stage)))
        results.append(_judge(evidence[-1], reference))

    if tokenize is not None:
        ids = call("tokenize", tokenize, list(TEXTS))
        judge("token_ids", _ids(ids, len(TEXTS)), range(len(TEXTS)), batches())
    if stages is not None:
        for stage, value in _named_stages(stages, reference):
            values = _ids(value, len(STAGE_ROWS)) if stage == "token_ids" else _split_by_text(stage, value, reference)
            judge(stage, values, STAGE_ROWS, [range(len(STAGE_ROWS))])
    if encode is not None:
        vectors, together = _final_vectors(encode, len(TEXTS))
        judge(FINAL, list(vectors), range(len(TEXTS)), together)
        structural = _structural_causes(vectors, reference)
    report = Report(results, structural, searched=causes)
    if report.ok or not causes or structural:
        return report
    with np.errstate(over="ignore", invalid="ignore"):  # of values that are wrong by far
        return _explain(report, evidence, reference, tried, math.inf if thorough else CPU_SECONDS)


def probe_texts() -> list[str]:
    """Return the 40 texts that a port encodes, in order."""
    return list(TEXTS)


def probe_batches() -> list[list[str]]:
    """Return the probe texts as `encode` receives them, one list per call."""
    return [[TEXTS[row] for row in batch] for batch in batches()]


def stage_texts() -> list[str]:
    """Return the probe texts whose stages are compared."""
    return [TEXTS[row] for row in STAGE_ROWS]


# --- check the port's values -------------------------------------------------------------------


def call(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a port. Raises CannotCompareError if it raises an exception."""
    try:
        return function(*arguments)
    except CannotCompareError:
        raise
    except Exception as error:  # a port may raise anything
        raise CannotCompareError(
            f"{name}: raised {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        ) from error


def numbers(name: str, value: Any) -> Array:
    """Return a port's numbers as float64. PyTorch tensors are converted, bfloat16 included.

    Raises CannotCompareError for anything that is not a real number: strings, complex numbers, masked elements, ...
    """
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            value = value.float() if value.is_floating_point() and value.element_size() < 4 else value  # bfloat16
        if _is_masked(value):
            raise TypeError("got masked elements")
        array = np.asarray(value)
        if array.dtype.kind not in "fiu":
            raise TypeError(f"got dtype {array.dtype}")
        if array.size > MAX_NUMBERS:
            raise ValueError(f"got {array.size}, which is more than {MAX_NUMBERS}")
        with np.errstate(over="ignore", invalid="ignore"):  # long double beyond float64, signaling NaN
            return array.astype(np.float64)
    except Exception as error:  # an object of a port may raise anything when it is converted
        raise CannotCompareError(f"{name}: expected numbers: {' '.join(str(error).split())[:200]}") from None


def _is_masked(value: Any) -> bool:
    """Whether an array, or an array in a list, has masked elements, which np.asarray would return as numbers."""
    if isinstance(value, list | tuple):
        return any(_is_masked(part) for part in value)
    return isinstance(value, np.ma.MaskedArray) and bool(np.ma.is_masked(value))


def _final_vectors(encode: Any, n: int) -> tuple[Array, list[list[int]]]:
    """Return the final vectors (n, H), float64, and the rows of each batch."""
    if not callable(encode):
        vectors = numbers("encode", encode)
        _check_rows("encode", vectors, n)
        return vectors, [list(range(n))]
    return encode_in_batches("encode", encode, probe_batches()), batches()


def encode_in_batches(name: str, encode: Encode, texts: Iterable[list[str]]) -> Array:
    """Return a port's vectors (n, D), float64, of batches of texts.

    Raises CannotCompareError if the port raises or returns anything but one vector per text, all of one size.
    """
    parts: list[Array] = []
    for number, batch in enumerate(texts):
        what = f"{name}, batch {number}"
        part = numbers(what, call(what, encode, list(batch)))
        _check_rows(what, part, len(batch))
        if parts and part.shape[1] != parts[0].shape[1]:
            raise CannotCompareError(
                f"{what}: expected {parts[0].shape[1]} dimensions as in batch 0, got {part.shape[1]}"
            )
        parts.append(part)
    return np.concatenate(parts)


def _check_rows(name: str, vectors: Array, n: int) -> None:
    if vectors.ndim != 2 or len(vectors) != n or vectors.shape[1] == 0:
        raise CannotCompareError(f"{name}: expected shape ({n}, 384), one vector per text, got {vectors.shape}")


def _ids(value: Any, n: int) -> list[Array]:
    """Return the token ids of n texts, one array each, without padding."""
    try:
        rows = [np.asarray(row) for row in value]
        if len(rows) != n or any(row.ndim != 1 or (row.size and row.dtype.kind not in "iu") for row in rows):
            raise ValueError
        if _is_masked(value if isinstance(value, np.ndarray) else list(value)):
            raise ValueError
    except Exception:  # an object of a port may raise anything when it is converted
        raise CannotCompareError(f"token_ids: expected a list of {n} lists of int, without padding") from None
    return [row.astype(np.int64) for row in rows]


def _named_stages(stages: Any, reference: Truth) -> Iterable[tuple[str, Any]]:
    """Return the port's stages under this package's names, in the order of the forward pass."""
    given = call("stages", stages, stage_texts()) if callable(stages) else stages
    if not isinstance(given, Mapping) or not given:
        got = "an empty one" if isinstance(given, Mapping) else type(given).__name__
        raise CannotCompareError(f"stages: expected a mapping from stage names to values, got {got}")
    order = ["token_ids", *stage_names(reference.checkpoint.config)]
    named: dict[str, Any] = {}
    for name, value in given.items():
        stage = ALIASES.get(str(name), str(name))
        if stage not in order:
            raise CannotCompareError(
                f"stages: expected names such as embeddings or encoder.layer.0.output, got {stage!r}"
            )
        if stage in named:
            raise CannotCompareError(f"stages: expected {stage} once, got it again as {name!r}")
        named[stage] = value
    return sorted(named.items(), key=lambda item: order.index(item[0]))


def _split_by_text(stage: str, value: Any, reference: Truth) -> list[Array]:
    """Return one array per text, from a list of arrays, from packed rows, or from an array padded on the right."""
    expected = reference.of(stage, STAGE_ROWS)
    lengths = [len(reference.token_ids[row]) for row in STAGE_ROWS]
    n = len(lengths)
    if isinstance(value, list | tuple) and len(value) == n and not any(np.isscalar(part) for part in value):
        parts = [numbers(f"stages[{stage!r}][{i}]", part) for i, part in enumerate(value)]
        return [
            part[0] if part.ndim == expected[i].ndim + 1 and len(part) == 1 else part for i, part in enumerate(parts)
        ]
    array = numbers(f"stages[{stage!r}]", value)
    if array.ndim == 2 and expected[0].ndim == 2 and len(array) == sum(lengths):
        return np.split(array, np.cumsum(lengths)[:-1])
    if array.ndim == expected[0].ndim + 1 and len(array) == n:
        if expected[0].ndim == 1:
            return list(array)
        if stage.endswith("attention_probs"):
            return [part[:, :length, :length] for part, length in zip(array, lengths, strict=True)]
        return [part[:length] for part, length in zip(array, lengths, strict=True)]
    raise CannotCompareError(
        f"stages[{stage!r}]: expected a list of {n} arrays, {sum(lengths)} packed rows, or an array "
        f"({n}, {max(lengths)}, ...) padded on the right, got shape {array.shape}"
    )


# --- find the largest error --------------------------------------------------------------------


def _judge(evidence: Evidence, reference: Truth) -> StageResult:
    stage, allowed = evidence.stage, evidence.tolerance
    largest_error = -1.0
    worst: tuple[int, tuple[int, ...]] = (0, ())  # position in evidence.rows, index of the element
    for i, (row, value, expected) in enumerate(zip(evidence.rows, evidence.got, evidence.expected, strict=True)):
        if value.shape != expected.shape:
            what = f"expected shape {expected.shape}, got {value.shape}"
            if stage == "token_ids":
                what = f"expected {len(expected)} tokens, got {len(value)}"
            return StageResult(stage, np.inf, allowed, None, f"probe {PROBES[row].name!r}: {what}")
        error = np.abs(value - expected)
        error = np.where(np.isfinite(error), error, np.inf)
        index = np.unravel_index(int(np.argmax(error)), error.shape)
        if error[index] > largest_error:
            largest_error, worst = float(error[index]), (i, tuple(int(axis) for axis in index))
    i, place = worst
    row, element, expected = evidence.rows[i], evidence.got[i][place], evidence.expected[i][place]
    token = None if largest_error <= allowed else _token(stage, place, reference.token_ids[row], reference.checkpoint)
    probe = PROBES[row]
    return StageResult(
        stage, largest_error, allowed, Worst(probe.name, probe.text, place, token, float(element), float(expected))
    )


def _token(stage: str, index: tuple[int, ...], ids: Array, checkpoint: Checkpoint) -> str | None:
    """Return the word piece that an element belongs to, or None for a stage with one vector per text."""
    if stage in ("pooled", FINAL):
        return None
    from tokenizers import Tokenizer

    place = index[1] if stage.endswith("attention_probs") else index[0]
    tokenizer = Tokenizer.from_file(str(checkpoint.folder / "tokenizer.json"))
    return str(tokenizer.id_to_token(int(ids[place])))


# --- find the cause ----------------------------------------------------------------------------


def _structural_causes(vectors: Array, reference: Truth) -> list[Cause]:
    """Return the causes that show without a search: another size, NaN or infinity, only zeros."""
    H = reference.embeddings.shape[1]
    if vectors.shape[1] != H:
        says = f"expected {H} dimensions, got {vectors.shape[1]}: another model, or truncated vectors"
        return [Cause("other-dimension", 1.0, says, 0.0)]
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():
        probes = ", ".join(PROBES[row].name for row in np.flatnonzero(bad)[:5])
        says = f"{bad.sum()} of {len(vectors)} vectors contain NaN or infinity ({probes})"
        return [Cause("not-finite", 1.0, says, 0.0)]
    if not vectors.any():
        return [Cause("all-zero", 1.0, "every vector is zero", 0.0)]
    return []


def _explain(
    report: Report,
    evidence: list[Evidence],
    reference: Truth,
    tried: Callable[[str], None] | None,
    seconds: float,
) -> Report:
    """Return the report with causes that explain both the first and the last stage out of tolerance."""
    wrong = [item for item, result in zip(evidence, report.stages, strict=True) if not result.ok]
    right = [
        item
        for item, result in zip(evidence, report.stages, strict=True)
        if result.ok and item.stage not in ("token_ids", FINAL)
    ]
    chosen = [wrong[0]] if len(wrong) == 1 else [wrong[0], wrong[-1]]
    if any(not np.isfinite(value).all() for item in chosen for value in item.got):
        says = f"{chosen[0].stage} contains NaN or infinity"
        return replace(report, causes=[Cause("not-finite", 1.0, says, 0.0)])
    # final vectors among the stages may be those of stage_texts() only
    complete = [item for item in wrong if item.stage == FINAL and len(item.rows) == len(TEXTS)]
    final = np.stack(complete[0].got) if complete else None
    moved = None if final is None else _moved_rows(final, reference.embeddings)
    form, together = None, [] if final is None else complete[0].batches
    if final is not None and not moved and wrong[0] is complete[0]:
        form = _form_of(final, together)
        if form is not None and form.rows.all():
            return replace(report, causes=[Cause(form.name, 1.0, form.says, form.remaining)])
        constant = None if form is None else constant_vector(final, np.flatnonzero(~form.rows).tolist())
        if constant is not None:  # texts that are cut may become equal
            cut = Search(simulator(), reference.token_ids, chosen, tried, lambda m: m.concerns_word_pieces, pairs=False)
            fitting = [cause for cause in cut.causes() if cause.fits]
            return replace(report, causes=fitting or [constant])
    unrelated = None if final is None or moved else _unrelated_vectors(final, reference.embeddings)
    if moved:  # the vectors are right, so only a mistake in the order of rows can explain them
        search = Search(
            simulator(), reference.token_ids, chosen, tried, lambda m: m.change[0][0] == "rows", pairs=False
        )
    else:
        search = Search(
            simulator(), reference.token_ids, chosen, tried, pairs=unrelated is None, right=right, seconds=seconds
        )
    causes = search.causes()
    seen = moved or unrelated
    if seen and not (causes and causes[0].fits):
        causes = [seen, *causes]
    closest = None if causes else search.closest
    report = replace(report, causes=causes, closest=closest, stopped=search.stopped)
    if causes and causes[0].fits:
        return report
    if final is None or wrong[0] is not complete[0]:
        first = wrong[0].stage
        return replace(report, part=of_stage(first), known=(f"the first wrong stage is {first}",))
    right_rows = (np.abs(final - reference.embeddings) <= tolerance(FINAL)).all(axis=1) if form is None else form.rows
    bad = set(np.flatnonzero(~right_rows).tolist())
    pieces = [ids.tolist() for ids in reference.token_ids]
    where = place(final, reference.embeddings, bad, together, pieces, simulator())
    facts = where.says if form is None or form.name == "right" else (*where.says, f"and in all texts: {form.says}")
    return replace(report, part=where.part, known=facts)


def _form_of(vectors: Array, together: Sequence[Sequence[int]]) -> Form | None:
    """Return the form of the vectors of all probe texts, if one is recognized."""
    calls = tuple(tuple(rows) for rows in together)
    pooled = simulator().stage(Variant(scaling="none"), tuple(range(len(TEXTS))), calls, FINAL)
    return recognize(vectors, np.stack(pooled).astype(np.float64), together, tolerance(FINAL))


def _moved_rows(vectors: Array, expected: Array) -> Cause | None:
    """Return the cause if every vector is right but some belong to another text."""
    nearest = np.argmax(vectors @ expected.T, axis=1)
    remaining = float(np.abs(vectors - expected[nearest]).max()) / tolerance(FINAL)
    moved = int(np.sum(nearest != np.arange(len(expected))))
    if remaining > 1 or moved == 0:
        return None
    if len(set(nearest.tolist())) == len(expected):
        return Cause("rows-out-of-order", 1.0, f"the vectors are right, but {moved} are in the wrong row", remaining)
    return Cause("rows-repeated", 1.0, f"{moved} rows hold the vector of another text", remaining)


def _unrelated_vectors(vectors: Array, expected: Array) -> Cause | None:
    """Return the cause if the vectors carry no information about the expected ones, as those of another model would.

    Let c be the cosines between the port's rows and the expected rows, less the mean of each row and column. Without
    a relation, the n cosines of the same text have mean 0, and their mean has the standard error std(c) / sqrt(n).
    The cause also needs a correlation below 0.5 between the similarities among the port's vectors and those among
    the expected ones.
    """
    n = len(expected)
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosines = unit @ expected.T
    cosines = cosines - cosines.mean(axis=0) - cosines.mean(axis=1)[:, None] + cosines.mean()
    same_text = np.diagonal(cosines)
    pairs = np.triu_indices(n, 1)
    with np.errstate(invalid="ignore"):
        correlation = np.corrcoef((unit @ unit.T)[pairs], (expected @ expected.T)[pairs])[0, 1]
    if same_text.mean() > 3 * cosines.std() / np.sqrt(n) or correlation > 0.5:
        return None
    says = "a text's vector is no closer to its expected vector than to those of other texts: another model?"
    return Cause("unrelated-vectors", 1.0, says, 0.0)
