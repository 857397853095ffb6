"""Which mistake explains a difference? Make each on purpose, and see whose vectors are the backend's.

A mistake that is the cause gives the backend's own wrong numbers, up to rounding. What it explains is a share of the
difference's square: 1 - |found - made|^2 / |found - right|^2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from minilm_np.crosscheck.mistakes import RIGHT, Mistake, catalogue
from minilm_np.crosscheck.probes import TEXTS
from minilm_np.crosscheck.variant import Simulator, Variant
from minilm_np.model import Array

FITS = 3.0  # tolerances: the backend rounds, and so does the float32 run that it is compared with
CANDIDATE = 0.5  # a mistake that explains less is not named
HOPELESS = 0.25  # one that explains less of one text, or of a few, is not tried on more
BEAM = 4  # mistakes that are tried together with every other
LEAST = 0.01  # one that explains less is not tried with every other
SHORT = 20  # word pieces
FULL = 6  # the best on few texts are tried on all


class Evidence(NamedTuple):
    """What a backend gave at one stage, and what is right, for these rows of TEXTS."""

    stage: str
    rows: Sequence[int]
    batches: Sequence[Sequence[int]]  # places in `rows`: which were asked for together
    found: Sequence[Array]
    wanted: Sequence[Array]
    tolerance: float

    def some(self, batches: Sequence[Sequence[int]]) -> Evidence:
        """Of these batches only."""
        places = [place for batch in batches for place in batch]
        new = {place: i for i, place in enumerate(places)}
        return self._replace(
            rows=[self.rows[place] for place in places],
            found=[self.found[place] for place in places],
            wanted=[self.wanted[place] for place in places],
            batches=[[new[place] for place in batch] for batch in batches],
        )


class Cause(NamedTuple):
    """One mistake, or two."""

    name: str  # a slug such as gelu-tanh; of two, both with " + " between
    explained: float  # share of the squared difference, 0 to 1
    says: str  # in words
    remaining: float  # largest difference from the backend that is left, in tolerances

    @property
    def fits(self) -> bool:
        """Whether what is left is rounding."""
        return self.remaining <= FITS


def _distance(found: Array, other: Array, stage: str) -> float:
    if stage == "token_ids":
        return float(not np.array_equal(found, other))
    if found.shape != other.shape:
        return float(np.sum(np.square(found, dtype=np.float64)))
    return float(np.sum(np.square(found - other.astype(np.float64))))


def _left(found: Array, other: Array, evidence: Evidence) -> float:
    """The largest difference, in tolerances."""
    if found.shape != other.shape:
        return np.inf
    if evidence.stage == "token_ids":
        return 0.0 if np.array_equal(found, other) else np.inf
    return float(np.abs(found - other).max(initial=0)) / evidence.tolerance


def _length(value: Array, evidence: Evidence) -> float:
    """Rounding grows with a vector, and the tolerance of final vectors is for those of length 1."""
    return max(1.0, float(np.linalg.norm(value))) if evidence.stage == "sentence_embedding" else 1.0


Made = tuple[Mistake, ...]


def variant_of(made: Made) -> Variant:
    """All these mistakes in one."""
    variant = RIGHT
    for mistake in made:
        variant = mistake.apply(variant)
    return variant


class Search:
    """Tries the catalogue on what a backend gave."""

    def __init__(
        self,
        simulator: Simulator,
        token_ids: Sequence[Array],
        evidence: Sequence[Evidence],
        tried: Callable[[str], None] | None = None,
        only: Callable[[Mistake], bool] = lambda _: True,
        pairs: bool = True,
        right: Sequence[Evidence] = (),
    ):
        """evidence: the stages to explain. right: stages that no cause may change."""
        self.simulator, self.evidence, self.tried, self.pairs = simulator, evidence, tried, pairs
        self.token_ids, self.right = token_ids, right
        self.closest: Cause | None = None  # the best, even if it is no cause
        self.mistakes = catalogue(simulator.checkpoint.config)
        self.rank = {mistake.name: i for i, mistake in enumerate(self.mistakes)}
        self.mistakes = [mistake for mistake in self.mistakes if only(mistake)]

    def causes(self) -> list[Cause]:
        """What fits, the plainest first; else what explains at least half, the best first; else nothing."""
        if all(_distance(f, w, e.stage) == 0 for e in self.evidence for f, w in zip(e.found, e.wanted, strict=True)):
            return []
        singles = self._best((mistake,) for mistake in self.mistakes)
        # bits of noise hide a second mistake: beside a format that explains nearly all, none is looked for
        noisy = any(cause.explained > 0.9 and variant_of(made).activations != "float32" for made, cause in singles)
        if self.pairs and not noisy and not any(cause.fits for _, cause in singles):
            firsts = [made for made, cause in singles[:BEAM] if cause.explained > LEAST]
            seen: set[frozenset[str]] = set()
            pairs = self._best(self._pairs(firsts, self.mistakes, seen))
            if not any(cause.explained > CANDIDATE for _, cause in singles + pairs):
                # two mistakes of the whole model can hide each other: then neither explains anything alone
                coarse = [m for m in self.mistakes if m.of_whole_model and self._changes_what_is_wrong((m,))]
                pairs = self._best(self._pairs([(mistake,) for mistake in coarse], coarse, seen))
            alone = {made[0].name: cause for made, cause in singles}
            for made, cause in pairs:
                # a second mistake is named only if it leaves less than half of what the first alone leaves
                best = max((alone[m.name].explained for m in made if m.name in alone), default=0.0)
                if 1 - cause.explained < (1 - best) / 2:
                    singles.append((made, cause))
        found = [cause for _, cause in singles]
        self.closest = max(found, key=lambda cause: cause.explained, default=None)
        fitting = [cause for made, cause in singles if cause.fits and not self._contradicted(made)]
        if fitting:
            return sorted(fitting, key=lambda cause: [self.rank[name] for name in cause.name.split(" + ")])
        return sorted((c for c in found if c.explained >= CANDIDATE), key=lambda c: -c.explained)[:5]

    def _contradicted(self, made: Made) -> bool:
        """Whether these mistakes would have changed a stage that is right."""
        if not self.right:
            return False
        variant, one = variant_of(made), self.right[0]  # all were asked for together
        texts = [TEXTS[row] for row in one.rows]
        run = self.simulator.run(variant, texts, one.batches, [evidence.stage for evidence in self.right])
        return any(
            _left(found, value, evidence) > FITS
            for evidence in self.right
            for found, value in zip(evidence.found, run.stages[evidence.stage], strict=True)
        )

    def _pairs(self, firsts: Sequence[Made], seconds: Sequence[Mistake], seen: set[frozenset[str]]) -> Iterator[Made]:
        for (first,) in firsts:
            for second in seconds:
                names = frozenset((first.name, second.name))
                if len(names) == 2 and names not in seen and not first.clashes_with(second):
                    seen.add(names)
                    yield (first, second) if self.rank[first.name] < self.rank[second.name] else (second, first)

    def _best(self, tries: Iterator[Made]) -> list[tuple[Made, Cause]]:
        """The tries that explain most of a few texts, tried on all, the best first."""
        ranking: list[tuple[Cause, Made]] = []
        hopeless: list[tuple[float, Made]] = []
        for made in tries:
            share = min(self._share_of_one(made, one) for one in self.evidence)
            if share > HOPELESS:
                cause = self._judge(made, [self._quick(made, one) for one in self.evidence])
                share = cause.explained
            if share > HOPELESS:
                ranking.append((cause, made))
            else:
                hopeless.append((share, made))
        ranking.sort(key=lambda entry: (-entry[0].explained, entry[0].remaining))
        hopeless.sort(key=lambda entry: -entry[0])
        fitting = [made for cause, made in ranking if cause.fits][: 2 * FULL]
        full = [(made, self._judge(made, self.evidence)) for made in fitting]
        if not any(cause.fits for _, cause in full):
            others = [made for cause, made in ranking if not cause.fits][:FULL]
            # if there are none, the best all the same: for the report to say how little they explain, and for the pairs
            others = others if fitting or others else [made for _, made in hopeless[:BEAM]]
            full += [(made, self._judge(made, self.evidence)) for made in others]
        return sorted(full, key=lambda entry: -entry[1].explained)

    def _share_of_one(self, made: Made, evidence: Evidence) -> float:
        """How much these mistakes explain of one short text that is wrong: most of them little, and that is quick.
        1 if one text says nothing of the others.
        """
        if any(mistake.of_batches for mistake in made):
            return 1.0
        short = (place for place, row in enumerate(evidence.rows) if len(self.token_ids[row]) <= SHORT)
        wrong = next((place for place in short if self._differs(evidence, place)), None)
        if wrong is None:
            return 1.0
        one, variant = evidence.some([[wrong]]), variant_of(made)
        values = self._make(variant, one)
        if _left(one.wanted[0], values[0], evidence) > 1:
            return self._share(variant, one, values)
        return 1.0 if any(mistake.of_texts for mistake in made) else 0.0

    def _changes_what_is_wrong(self, made: Made) -> bool:
        """Whether these mistakes change anything in a few texts that are wrong."""
        return any(
            _left(wanted, value, one) > 1 and self._differs(one, place)
            for one in (self._quick(made, evidence) for evidence in self.evidence)
            for place, (wanted, value) in enumerate(zip(one.wanted, self._make(variant_of(made), one), strict=True))
        )

    @staticmethod
    def _differs(evidence: Evidence, place: int) -> bool:
        return _left(evidence.found[place], evidence.wanted[place], evidence) > 1

    def _quick(self, made: Made, evidence: Evidence) -> Evidence:
        """Texts enough to see whether mistakes are worth trying on all: those that are wrong first, then others."""
        lengths = [len(self.token_ids[row]) for row in evidence.rows]
        differs = [self._differs(evidence, place) for place in range(len(lengths))]
        short = [place for place, length in enumerate(lengths) if length <= SHORT]
        short.sort(key=lambda place: not differs[place])
        fields = {field for mistake in made for field, _ in mistake.change}
        together = any(mistake.of_batches for mistake in made)
        if "max_seq_length" in fields:  # shows in long texts only
            return evidence if together or len(made) == 1 else evidence.some([[int(np.argmax(lengths)), *short[:2]]])
        if together:
            batches = [batch for batch in evidence.batches if set(batch) <= set(short)]
            batches.sort(key=lambda batch: not any(differs[place] for place in batch))
            if batches:
                return evidence.some(batches[: 2 if len(made) == 1 else 1])
            # all in one batch: padding goes by the longest, so with it a few will do; an order needs them all
            return evidence if "rows" in fields else evidence.some([[int(np.argmax(lengths)), *short[:3]]])
        some = 3 if "pad_to" in fields else 16 if len(made) == 1 else 6
        return evidence.some([short[:some]]) if short else evidence

    def _judge(self, made: Made, evidence: Sequence[Evidence]) -> Cause:
        """How much these mistakes, all made, explain of the evidence of which they explain least."""
        names, says = " + ".join(m.name for m in made), "; and ".join(m.says for m in made)
        if self.tried:
            self.tried(names)
        variant = variant_of(made)
        explained, remaining = 1.0, 0.0
        for one in evidence:
            if all(_left(f, w, one) <= 1 for f, w in zip(one.found, one.wanted, strict=True)):
                return Cause(names, 0.0, says, np.inf)  # these texts do not show the difference
            values = self._make(variant, one)
            left = [_left(f, v, one) / _length(v, one) for f, v in zip(one.found, values, strict=True)]
            worst = float(np.max(left))  # NaN if one is
            share = self._share(variant, one, values)
            explained = min(explained, max(0.0, share))
            remaining = max(remaining, worst if np.isfinite(worst) else np.inf)
        return Cause(names, float(explained), says, float(remaining))

    def _make(self, variant: Variant, evidence: Evidence) -> Sequence[Array]:
        """What a backend with this variant gives at the evidence's stage."""
        return self.simulator.stage(variant, tuple(evidence.rows), tuple(map(tuple, evidence.batches)), evidence.stage)

    def _share(self, variant: Variant, evidence: Evidence, values: Sequence[Array]) -> float:
        """The share of the squared difference that is explained."""

        def distance(a: Sequence[Array], b: Sequence[Array]) -> float:
            return sum(_distance(x, y, evidence.stage) for x, y in zip(a, b, strict=True))

        whole, left = distance(evidence.found, evidence.wanted), distance(evidence.found, values)
        if not np.isfinite(left) or whole == 0:
            return 0.0
        if variant.activations == "float32" or left >= whole:
            return 1 - left / whole
        # Activations of few bits have noise of their own: two right implementations of this very mistake round in
        # other places, and differ by as much as `apart`. That much is no argument against it, provided that what the
        # format changes has the size and, more or less, the direction of what there is to explain.
        without = self._make(replace(variant, activations="float32", weights="float32", tables="float32"), evidence)
        if any(not f.shape == v.shape == o.shape for f, v, o in zip(evidence.found, values, without, strict=True)):
            return 1 - left / whole
        there, changes = (
            np.concatenate([np.ravel(x - o) for x, o in zip(part, without, strict=True)], dtype=np.float64)
            for part in (evidence.found, values)
        )
        size, length = float(there @ there), float(np.linalg.norm(changes) * np.linalg.norm(there))
        if not (0.5 * size < float(changes @ changes) < 2 * size and float(changes @ there) > 0.25 * length):
            return 1 - left / whole
        apart = distance(values, self._make(replace(variant, dither=True), evidence))
        return 1 - max(0.0, left - apart) / whole
