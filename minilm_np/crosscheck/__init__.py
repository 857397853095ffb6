"""Cross-checking: tell another backend of all-MiniLM-L6-v2 whether it is right, where it goes wrong first, and why.

probes.py        the texts that are asked
truth.py         what is right, and how far off a right backend may be
reproducible.py  float64 that has the same bits everywhere, for golden bundles
goldens.py       the bundle: write, read
variant.py       the model with any decision taken wrongly
mistakes.py      the catalogue of wrong decisions
causes.py        which of them explains a difference
compare.py       the check itself
report.py        what it found; plot.py draws it
backends.py      functions by name, files of results, HTTP endpoints, ONNX files
corpus.py        what changes for a user's own texts
testing.py       the check as an assertion; plugin.py hands it to pytest
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minilm_np.crosscheck.causes import Cause
    from minilm_np.crosscheck.compare import (
        CannotCompareError,
        crosscheck,
        probe_batches,
        probe_texts,
        stage_texts,
    )
    from minilm_np.crosscheck.corpus import Equivalence, equivalence
    from minilm_np.crosscheck.report import Report
    from minilm_np.crosscheck.testing import assert_matches_minilm

__all__ = [
    "CannotCompareError",
    "Cause",
    "Equivalence",
    "Report",
    "assert_matches_minilm",
    "crosscheck",
    "equivalence",
    "probe_batches",
    "probe_texts",
    "stage_texts",
]

_HOMES = {
    "Cause": "causes",
    "Equivalence": "corpus",
    "Report": "report",
    "assert_matches_minilm": "testing",
    "equivalence": "corpus",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'compare')}"), name)
