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

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
