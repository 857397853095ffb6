"""Compile every kernel, or load it from the cache, before the first text comes."""

from __future__ import annotations

import numpy as np

from minilm_np import model
from minilm_np.kernels.program import Programs
from minilm_np.kernels.simd import WITHOUT_JIT
from minilm_np.kernels.team import Team, worker_loop


def warm_up(bert: model.Bert) -> None:
    """Run every kernel once on a text of three word pieces; at its first call Numba compiles a kernel or loads it."""
    if WITHOUT_JIT:
        return
    tokens = np.zeros(3, np.int32), np.zeros(3, np.int32), np.array([0, 3])
    model.forward(bert, *tokens)
    together = Team(2)
    worker_loop(together._box, 0)  # compiled here, because an error in a worker thread would be lost
    program = Programs(bert).program(tokens[2])
    if program:
        together.run(program, *tokens[:2])
    else:
        model.forward(bert._replace(ops=together), *tokens)
