"""Study the model: every number of the forward pass, where a similarity comes from, and what changes it.

similarity.py    the cosine after each layer, and its exact split into pairs of tokens
attribution.py   gradients of the cosine with respect to the embeddings
ablation.py      the model without a head, a layer or a token
lab.py           the known mistakes as switches
exercises.py     the encoder with holes, and the check of an answer; exercise/ has its templates, cases and known wrong
                 answers, and the processes that check
questions.py     twenty questions with the code that answers them
traces.py        the values of a page: packing.py makes them small, effects.py precomputes the ablations, page.py writes
                 it, assets/ has its style and scripts
"""

from __future__ import annotations

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
