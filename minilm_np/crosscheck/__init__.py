"""Cross-check a port of all-MiniLM-L6-v2: is it right, at which stage does it first go wrong, and why?

probes.py              the texts that a port encodes
truth.py               the float64 reference for these texts, and the tolerance of each stage
reproducible.py        a float64 op set with the same bits on every machine, for golden bundles
goldens.py             writes and reads golden bundles
variant.py             the model with any mistake built in
mistakes.py            the catalogue of known mistakes
causes.py              finds the mistakes that explain a difference
form.py                recognizes right numbers that were rounded, scaled or transformed
placement.py           the part that is wrong, where no known mistake explains a difference
compare.py             the check: `crosscheck`
gradients.py           the check of gradients; examples.py has its texts, gradient_variant.py the backward pass with any
                       mistake, gradient_mistakes.py their catalogue, gradient_forms.py what shows in the numbers
optimizer.py           the check of an optimizer's steps
report.py              its result as text, JSON and JUnit XML; plot.py draws it
search_equivalence.py  whether two ports give the same search results on a user's texts
testing.py             the check as an assertion; plugin.py provides it to pytest
"""

from __future__ import annotations

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
