"""Find the mistake that explains a port's wrong numbers.

The question: a port returned wrong vectors or stages. Which known mistake, or pair of mistakes, did it make?

The idea: make the mistake on purpose and compare. If the port made this mistake, a simulation that makes it too
(variant.py) returns the port's own wrong numbers, up to float32 rounding. A *hypothesis* is one mistake of the
catalogue (mistakes.py), or a pair of them, that is tried in this way.

Evidence
    One stage: the port's values (`got`) and the float64 reference (`expected`), each with one array per probe text, and
    the stage's tolerance. `crosscheck` passes the first wrong stage and the last wrong stage, which are often the same:
    the first shows where the difference starts, and a cause must explain the last as well.

How well a hypothesis explains the evidence
    Let `simulated` be the values of the simulation. Over all elements of all texts,

        explained = 1 - sum |got - simulated|^2 / sum |got - expected|^2,

    at least 0: 1 if the simulation returns the port's numbers, 0 if it is no closer to them than the reference is. With
    two stages the smaller value counts. `remaining` is the largest |got - simulated| of an element, in tolerances. (For
    final vectors longer than 1 the tolerance grows with the length. token_ids are compared as a whole, text by text.)

    A hypothesis *fits* if `remaining` is at most 3 tolerances: the port rounds, and so does the simulation, which runs
    in float32. Hypotheses that fit are reported as causes. If none fits, those that explain at least 95 % are
    reported as candidates, at most five. If none does, no known mistake explains the difference, and `Search.closest`
    is the best attempt.

The order of the search
    0. If some texts are right, the tokenizer is the first suspect, because a mistake of arithmetic changes every text.
       Its mistakes that change the word pieces of exactly the wrong texts are tried first, and the search ends if one
       fits. Those that change the word pieces of a right text are not tried (`Search._best_word_pieces`).
    1. Single mistakes, in three rounds of increasing cost (`Search._best`):
       a. One short wrong text. A mistake that explains at most a quarter of it is dropped, and so is a mistake of
          arithmetic that leaves it right. Mistakes whose effect depends on the batch skip this round.
       b. A few texts, wrong ones first, chosen so that the mistake can show in them. The same limit of a quarter holds.
       c. All texts, for the twelve best hypotheses that fit in round b; if none of them fits all texts, for the six
          best others; if no mistake passed the limit of a quarter, for the four best, so that `closest` is known.
    2. Pairs, only if no single mistake fits. The four best single mistakes are combined with every other mistake of the
       catalogue, through the same rounds. If still nothing explains more than half, two mistakes may hide each other:
       neither explains anything alone. Then all pairs of mistakes that concern the whole model are tried, without the
       mistakes that change no wrong text. A pair counts only if it leaves less than half of what the better of its two
       mistakes leaves alone, because any second mistake explains a little more by chance.
    3. A hypothesis that fits but would have changed a stage that is right is at most a candidate. Causes are listed in
       the order of the catalogue, plain mistakes first, because the evidence cannot tell them apart.

Low-precision formats
    Activations in fp16, bf16 or int8 are rounded after every operation, or before every dense layer, and two
    correct implementations of the format round different values up or down. So the simulation cannot return the
    port's own numbers. The noise floor is measured: the simulation runs again with dithered rounding, and the
    squared distance between its two results is subtracted from sum |got - simulated|^2. A large floor could hide a
    different mistake. It is therefore granted only if the change that the format makes in the simulation has
    roughly the size (squared norm within a factor of 2) and the direction (cosine above 0.25) of the port's
    difference. These hypotheses usually remain candidates, because `remaining` includes the noise. The noise also
    hides a second mistake: if such a format alone explains more than 0.9, no pairs are tried.

What the search cannot find
    Mistakes that are not in the catalogue, three mistakes at once, and two mistakes about the same decision (the same
    field of `Variant`, such as two dropped biases in different layers). A dropped key bias changes no final vector,
    because softmax is invariant to it; only stages show it. A tokenizer that is right on every probe text passes.

What it costs
    At most 30 seconds of CPU time and the last trial that was begun, unless `seconds` is larger: after that time no
    further hypothesis is tried, and the best so far is reported. All single mistakes take 24 seconds of CPU time (Xeon
    with AVX-512, 2 cores); all pairs would take minutes. Simulated values are cached, so checks of further ports in the
    same process are faster. Where only long texts are wrong and no mistake of the tokenizer fits, the first round is
    skipped and all mistakes reach the second.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple, TypeVar

import numpy as np

from minilm_np.crosscheck.mistakes import RIGHT, Mistake, catalogue
from minilm_np.crosscheck.probes import TEXTS
from minilm_np.crosscheck.variant import Simulator, Variant
from minilm_np.model import Array

MAX_REMAINING = 3.0  # a hypothesis fits if no element differs by more than this many tolerances
MIN_CANDIDATE_SHARE = 0.95  # `explained` of a candidate; the report says so
MIN_PAIRED_EXPLAINED = 0.5  # `explained` of single mistakes or pairs that makes other pairs unnecessary
CPU_SECONDS = 30.0  # of a search that is not thorough
MAX_CANDIDATES = 5
MAX_HOPELESS_SHARE = 0.25  # a hypothesis that explains no more than this of few texts is not tried on more
SHORT_TEXT_TOKENS = 20  # texts up to this length are used in rounds a and b
MAX_OTHER_TRIALS = 6  # hypotheses that do not fit a few texts but are tried on all
MAX_FITTING_TRIALS = 12  # hypotheses that fit a few texts and are tried on all
PAIRED_MISTAKES = 4  # single mistakes that are combined with every other
MIN_PAIRED_SHARE = 0.01  # `explained` of a mistake that is combined with every other
MIN_NOISY_FORMAT_SHARE = 0.9  # a low-precision format that explains more hides a second mistake


T = TypeVar("T")


class Evidence(NamedTuple):
    """What a port returned at one stage, and the reference values, for some of the probe texts."""

    stage: str
    rows: Sequence[int]  # rows of TEXTS
    batches: Sequence[Sequence[int]]  # indices into `rows`: texts that the port received together
    got: Sequence[Array]
    expected: Sequence[Array]
    tolerance: float

    def subset(self, batches: Sequence[Sequence[int]]) -> Evidence:
        """Return the evidence of these batches only; `batches` holds indices into `rows`."""
        places = [place for batch in batches for place in batch]
        new = {place: i for i, place in enumerate(places)}
        return self._replace(
            rows=[self.rows[place] for place in places],
            got=[self.got[place] for place in places],
            expected=[self.expected[place] for place in places],
            batches=[[new[place] for place in batch] for batch in batches],
        )


class Cause(NamedTuple):
    """An explanation of a difference: one mistake or a pair."""

    name: str  # the mistake's name in the catalogue, such as "gelu-tanh"; the names of a pair are joined by " + "
    explained: float  # share of the squared difference that it explains, 0 to 1
    says: str  # description of the mistake
    remaining: float  # largest |port - simulation|, in tolerances; inf if the mistake would change a right stage

    @property
    def fits(self) -> bool:
        """Whether the mistake explains the difference up to rounding: a cause, not just a candidate."""
        return self.remaining <= MAX_REMAINING


Hypothesis = tuple[Mistake, ...]  # one mistake or two


def variant_of(hypothesis: Hypothesis) -> Variant:
    """Return the variant that makes all mistakes of the hypothesis."""
    variant = RIGHT
    for mistake in hypothesis:
        variant = mistake.apply(variant)
    return variant


# --- differences between two values of one stage and text --------------------------------------


def _squared_distance(a: Array, b: Array, stage: str) -> float:
    """Return sum |a - b|^2; for token_ids 1 if they differ; for different shapes sum |a|^2."""
    if stage == "token_ids":
        return float(not np.array_equal(a, b))
    if a.shape != b.shape:
        return float(np.sum(np.square(a, dtype=np.float64)))
    return float(np.sum(np.square(a - b.astype(np.float64))))


def _in_tolerances(a: Array, b: Array, evidence: Evidence) -> float:
    """Return the largest |a - b| of an element in tolerances; infinite for different shapes or word pieces."""
    if a.shape != b.shape:
        return np.inf
    if evidence.stage == "token_ids":
        return 0.0 if np.array_equal(a, b) else np.inf
    return float(np.abs(a - b).max(initial=0)) / evidence.tolerance


def _length_factor(value: Array, evidence: Evidence) -> float:
    """Return the factor on the tolerance of final vectors, which is for length 1: rounding grows with length."""
    return max(1.0, float(np.linalg.norm(value))) if evidence.stage == "sentence_embedding" else 1.0


class Search:
    """Try the catalogue on what a port returned; the module's docstring describes the method."""

    def __init__(
        self,
        simulator: Simulator,
        token_ids: Sequence[Array],
        evidence: Sequence[Evidence],
        tried: Callable[[str], None] | None = None,
        only: Callable[[Mistake], bool] = lambda _: True,
        pairs: bool = True,
        right: Sequence[Evidence] = (),
        seconds: float = math.inf,
    ):
        """Prepare a search.

        Parameters
        ----------
        token_ids
            The correct word pieces of each of TEXTS.
        evidence
            The stages to explain.
        tried
            Called with the name of each hypothesis that reaches round b or c.
        only
            Whether to consider a mistake of the catalogue.
        pairs
            Whether to try pairs.
        right
            Stages that are right, all for the same texts. No cause may change them.
        seconds
            CPU time after which no further hypothesis is tried.
        """
        self.end = time.process_time() + seconds
        self.stopped = False  # whether the time was over before all hypotheses were tried
        self.simulator, self.evidence, self.tried, self.pairs = simulator, evidence, tried, pairs
        self.token_ids, self.right = token_ids, right
        self.closest: Cause | None = None  # after causes(): what explains most, whether or not it is a cause
        mistakes = catalogue(simulator.checkpoint.config)
        self.rank = {mistake.name: i for i, mistake in enumerate(mistakes)}
        self.mistakes = [mistake for mistake in mistakes if only(mistake)]

    def causes(self) -> list[Cause]:
        """Return the causes that fit, in the order of the catalogue; or else the candidates, best first."""
        if not any(
            _squared_distance(got, expected, one.stage)
            for one in self.evidence
            for got, expected in zip(one.got, one.expected, strict=True)
        ):
            return []
        results = self._best_word_pieces()
        if not any(cause.fits for _, cause in results):
            tried = {hypothesis[0].name for hypothesis, _ in results}
            left = [mistake for mistake in self.mistakes if mistake.name not in tried]
            one = self.evidence[-1]
            none_right = all(self._is_wrong(one, place) for place in range(len(one.rows)))
            # The time may be over before the slow ones, and those that would have left some texts right.
            left.sort(key=lambda mistake: (mistake.is_slow, none_right and mistake.can_spare_texts))
            results += self._best((mistake,) for mistake in left)
        if self.pairs and not any(cause.fits or self._is_noisy_format(h, cause) for h, cause in results):
            results += self._best_pairs(results)
        explanations = [
            cause._replace(remaining=np.inf) if cause.fits and self._contradicted(hypothesis) else cause
            for hypothesis, cause in results
        ]
        self.closest = max(explanations, key=lambda cause: cause.explained, default=None)
        fitting = [cause for cause in explanations if cause.fits]
        if fitting:
            return sorted(fitting, key=lambda cause: [self.rank[name] for name in cause.name.split(" + ")])
        candidates = [cause for cause in explanations if cause.explained >= MIN_CANDIDATE_SHARE]
        return sorted(candidates, key=lambda cause: -cause.explained)[:MAX_CANDIDATES]

    @staticmethod
    def _is_noisy_format(hypothesis: Hypothesis, cause: Cause) -> bool:
        """Whether this is a low-precision format that explains nearly everything and would hide a second mistake."""
        return cause.explained > MIN_NOISY_FORMAT_SHARE and variant_of(hypothesis).activations != "float32"

    def _contradicted(self, hypothesis: Hypothesis) -> bool:
        """Whether the hypothesis would have changed a stage that is right."""
        if not self.right:
            return False
        texts, batches = [TEXTS[row] for row in self.right[0].rows], self.right[0].batches
        run = self.simulator.run(variant_of(hypothesis), texts, batches, [one.stage for one in self.right])
        return any(
            _in_tolerances(got, simulated, one) > MAX_REMAINING
            for one in self.right
            for got, simulated in zip(one.got, run.stages[one.stage], strict=True)
        )

    # --- which hypotheses ----------------------------------------------------------------------

    def _best_word_pieces(self) -> list[tuple[Hypothesis, Cause]]:
        """Where some texts are right, judge the mistakes that change the word pieces of exactly the wrong texts.

        Mistakes that would change the word pieces of a right text are dropped from the catalogue.
        """
        one = self.evidence[-1]
        wrong = [place for place in range(len(one.rows)) if self._is_wrong(one, place)]
        if not wrong or len(wrong) == len(one.rows):
            return []
        exact, spoiling = [], set()
        for mistake in self._in_time(mistake for mistake in self.mistakes if mistake.concerns_word_pieces):
            ids = self.simulator.token_ids(mistake.apply())
            changed = [place for place, row in enumerate(one.rows) if ids[row] != [self.token_ids[row].tolist()]]
            if changed == wrong:
                exact.append(mistake)
            elif not set(changed) <= set(wrong):
                spoiling.add(mistake.name)
        self.mistakes = [mistake for mistake in self.mistakes if mistake.name not in spoiling]
        rows = {one.rows[place] for place in wrong}
        few = [each.subset([[place for place, row in enumerate(each.rows) if row in rows]]) for each in self.evidence]
        judged = [((mistake,), self._judge((mistake,), few)) for mistake in self._in_time(exact, 1)]
        return sorted(judged, key=lambda entry: -entry[1].explained)

    def _best_pairs(self, singles: list[tuple[Hypothesis, Cause]]) -> list[tuple[Hypothesis, Cause]]:
        """Return the pairs that explain most and clearly more than their mistakes alone."""
        seen: set[frozenset[str]] = set()
        firsts = [mistake for (mistake,), cause in singles[:PAIRED_MISTAKES] if cause.explained > MIN_PAIRED_SHARE]
        pairs = self._best(self._combine(firsts, self.mistakes, seen))
        if not any(cause.explained > MIN_PAIRED_EXPLAINED for _, cause in singles + pairs):
            whole_model = (mistake for mistake in self.mistakes if mistake.concerns_whole_model)
            coarse = [m for m in self._in_time(whole_model) if self._changes_a_wrong_text((m,))]
            pairs = self._best(self._combine(coarse, coarse, seen))
        alone = {mistake.name: cause.explained for (mistake,), cause in singles}
        return [
            (pair, cause)
            for pair, cause in pairs
            if 1 - cause.explained < (1 - max(alone.get(mistake.name, 0.0) for mistake in pair)) / 2
        ]

    def _combine(
        self, firsts: Sequence[Mistake], seconds: Sequence[Mistake], seen: set[frozenset[str]]
    ) -> Iterator[Hypothesis]:
        """Yield pairs that a port can make, each once, in the order of the catalogue; adds their names to `seen`."""
        for first in firsts:
            for second in seconds:
                names = frozenset((first.name, second.name))
                if len(names) == 2 and names not in seen and not first.clashes_with(second):
                    seen.add(names)
                    yield (first, second) if self.rank[first.name] < self.rank[second.name] else (second, first)

    def _best(self, hypotheses: Iterator[Hypothesis]) -> list[tuple[Hypothesis, Cause]]:
        """Return the hypotheses that reach round c, judged on all texts, best first."""
        promising: list[tuple[Cause, Hypothesis]] = []
        hopeless: list[tuple[float, Hypothesis]] = []
        for hypothesis in self._in_time(hypotheses):
            share = min(self._share_of_one_text(hypothesis, one) for one in self.evidence)
            if share > MAX_HOPELESS_SHARE:
                cause = self._judge(hypothesis, [self._few_texts(hypothesis, one) for one in self.evidence])
                share = cause.explained
            if share > MAX_HOPELESS_SHARE:
                promising.append((cause, hypothesis))
            else:
                hopeless.append((share, hypothesis))
        promising.sort(key=lambda entry: (-entry[0].explained, entry[0].remaining))
        hopeless.sort(key=lambda entry: -entry[0])
        fitting = [hypothesis for cause, hypothesis in promising if cause.fits][:MAX_FITTING_TRIALS]
        judged = [(hypothesis, self._judge(hypothesis, self.evidence)) for hypothesis in self._in_time(fitting, 1)]
        if not any(cause.fits for _, cause in judged):
            others = [hypothesis for cause, hypothesis in promising if not cause.fits][:MAX_OTHER_TRIALS]
            if not promising:  # the report shows how little is explained, and pairs need first mistakes
                others = [hypothesis for _, hypothesis in hopeless[:PAIRED_MISTAKES]]
            judged += [(hypothesis, self._judge(hypothesis, self.evidence)) for hypothesis in self._in_time(others, 1)]
        return sorted(judged, key=lambda entry: -entry[1].explained)

    def _in_time(self, items: Iterable[T], at_least: int = 0) -> Iterator[T]:
        """Yield the items until the time is over, but `at_least` this many."""
        for number, item in enumerate(items):
            if number >= at_least and time.process_time() > self.end:
                self.stopped = True
                return
            yield item

    # --- on which texts ------------------------------------------------------------------------

    def _share_of_one_text(self, hypothesis: Hypothesis, evidence: Evidence) -> float:
        """Round a: return the share explained of the first short wrong text; 1 if this text cannot decide.

        Most mistakes explain little of it, and one short text is cheap.
        """
        if any(mistake.depends_on_batch for mistake in hypothesis):
            return 1.0
        short = (place for place, row in enumerate(evidence.rows) if len(self.token_ids[row]) <= SHORT_TEXT_TOKENS)
        wrong = next((place for place in short if self._is_wrong(evidence, place)), None)
        if wrong is None:
            return 1.0
        text, variant = evidence.subset([[wrong]]), variant_of(hypothesis)
        simulated = self._simulate(variant, text)
        if _in_tolerances(text.expected[0], simulated[0], evidence) > 1:
            return self._share(variant, text, simulated)
        if len(hypothesis) == 1 and hypothesis[0].is_rule:
            return 0.0  # this wrong text has the right word pieces
        return 1.0 if any(mistake.can_spare_texts for mistake in hypothesis) else 0.0

    def _few_texts(self, hypothesis: Hypothesis, evidence: Evidence) -> Evidence:
        """Round b: return evidence of a few texts, wrong ones first, in which this hypothesis can show."""
        lengths = [len(self.token_ids[row]) for row in evidence.rows]
        wrong = [self._is_wrong(evidence, place) for place in range(len(lengths))]
        longest = int(np.argmax(lengths))
        short = [place for place, length in enumerate(lengths) if length <= SHORT_TEXT_TOKENS]
        short.sort(key=lambda place: not wrong[place])
        fields = {field for mistake in hypothesis for field, _ in mistake.change}
        single, together = len(hypothesis) == 1, any(mistake.depends_on_batch for mistake in hypothesis)
        if "max_seq_length" in fields:  # shows in long texts only
            return evidence if together else evidence.subset([[longest, *short[:2]]])
        if together:
            batches = [batch for batch in evidence.batches if set(batch) <= set(short)]
            batches.sort(key=lambda batch: not any(wrong[place] for place in batch))
            if batches:
                return evidence.subset(batches[: 2 if single else 1])
            # A port that received all texts at once: padding depends on the longest, so it and a few others are enough;
            # an order of rows needs them all.
            return evidence if "rows" in fields else evidence.subset([[longest, *short[:3]]])
        count = 1 if "pad_to" in fields else 16 if single else 6  # padding to a fixed width makes every text long
        return evidence.subset([short[:count]]) if short else evidence

    def _changes_a_wrong_text(self, hypothesis: Hypothesis) -> bool:
        """Whether the hypothesis changes anything in those of a few texts that are wrong."""
        return any(
            _in_tolerances(expected, simulated, few) > 1 and self._is_wrong(few, place)
            for few in (self._few_texts(hypothesis, one) for one in self.evidence)
            for place, (expected, simulated) in enumerate(
                zip(few.expected, self._simulate(variant_of(hypothesis), few), strict=True)
            )
        )

    @staticmethod
    def _is_wrong(evidence: Evidence, place: int) -> bool:
        return _in_tolerances(evidence.got[place], evidence.expected[place], evidence) > 1

    # --- how much is explained -----------------------------------------------------------------

    def _simulate(self, variant: Variant, evidence: Evidence) -> Sequence[Array]:
        """Return what a port with this variant's decisions returns at the evidence's stage, one array per text."""
        return self.simulator.stage(variant, tuple(evidence.rows), tuple(map(tuple, evidence.batches)), evidence.stage)

    def _judge(self, hypothesis: Hypothesis, evidence: Sequence[Evidence]) -> Cause:
        """Return how well the hypothesis explains these stages: the smallest share and the largest remainder."""
        name = " + ".join(mistake.name for mistake in hypothesis)
        description = "; and ".join(mistake.description for mistake in hypothesis)
        if self.tried:
            self.tried(name)
        variant = variant_of(hypothesis)
        explained, remaining = 1.0, 0.0
        for one in evidence:
            if not any(self._is_wrong(one, place) for place in range(len(one.rows))):
                return Cause(name, 0.0, description, np.inf)  # these texts do not show the difference
            simulated = self._simulate(variant, one)
            worst = np.max(
                [
                    _in_tolerances(got, made, one) / _length_factor(made, one)
                    for got, made in zip(one.got, simulated, strict=True)
                ]
            )
            explained = min(explained, max(0.0, self._share(variant, one, simulated)))
            remaining = max(remaining, float(worst) if np.isfinite(worst) else np.inf)
        return Cause(name, float(explained), description, float(remaining))

    def _share(self, variant: Variant, evidence: Evidence, simulated: Sequence[Array]) -> float:
        """Return the share of the squared difference that the simulated values explain; negative if they are worse."""

        def distance(a: Sequence[Array], b: Sequence[Array]) -> float:
            return sum(_squared_distance(x, y, evidence.stage) for x, y in zip(a, b, strict=True))

        whole, left = distance(evidence.got, evidence.expected), distance(evidence.got, simulated)
        if not np.isfinite(left) or whole == 0:
            return 0.0
        if left < whole and self._format_resembles_difference(variant, evidence, simulated):
            noise_floor = distance(simulated, self._simulate(replace(variant, dither=True), evidence))
            left = max(0.0, left - noise_floor)
        return 1 - left / whole

    def _format_resembles_difference(self, variant: Variant, evidence: Evidence, simulated: Sequence[Array]) -> bool:
        """Whether activations have few bits, and rounding to them has about the effect that the port shows.

        With u = got - exact and v = simulated - exact, where exact is the same variant in float32:
        |u|^2 / 2 < |v|^2 < 2 |u|^2 and cos(u, v) > 1/4.
        """
        if variant.activations == "float32":
            return False
        exact = self._simulate(replace(variant, activations="float32", weights="float32", tables="float32"), evidence)
        if any(not g.shape == s.shape == e.shape for g, s, e in zip(evidence.got, simulated, exact, strict=True)):
            return False
        u, v = (
            np.concatenate([np.ravel(x - e) for x, e in zip(values, exact, strict=True)], dtype=np.float64)
            for values in (evidence.got, simulated)
        )
        similar_size = 0.5 * float(u @ u) < float(v @ v) < 2 * float(u @ u)
        return similar_size and float(v @ u) > 0.25 * float(np.linalg.norm(v) * np.linalg.norm(u))
