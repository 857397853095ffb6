"""`minilm-np compile`: compile the kernels when an image is built, not at the first start."""

from __future__ import annotations

import argparse

HELP = "Compile the Numba kernels for this CPU and keep the code, so that no later start has to."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "The code is used only on a CPU with the same features, or as pinned with NUMBA_CPU_NAME and "
    parser.epilog += "NUMBA_CPU_FEATURES. NUMBA_CACHE_DIR names another folder."


def run(arguments: argparse.Namespace) -> None:
    import numpy as np

    from minilm_np import kernels, model
    from minilm_np.checkpoint import parameter_shapes
    from minilm_np.encoder import LOW_PRECISION
    from minilm_np.kernels import cache
    from minilm_np.kernels.simd import WIDTH, WITHOUT_JIT
    from minilm_np.kernels.warm_up import warm_up

    if WITHOUT_JIT:
        raise ValueError("NUMBA_DISABLE_JIT: expected 0, because nothing is compiled otherwise, got 1")
    # The machine code does not depend on the weights, nor on the number of layers.
    config = model.BertConfig(vocab_size=1, num_hidden_layers=1, max_position_embeddings=3)
    params = {key: np.ones(shape, np.float32) for key, shape in parameter_shapes(config).items()}
    for value in params.values():
        value.flags.writeable = False  # as a checkpoint's; Numba compiles for read-only arrays separately
    sizes = config.hidden_size, config.num_attention_heads, config.intermediate_size
    for dtype in ("float32", *LOW_PRECISION):
        if not kernels.unsupported(*sizes, dtype):
            warm_up(model.prepare(params, config, kernels.op_set(dtype)))
    counts = cache.KernelCache
    if counts.unsaved is not None:
        raise OSError(f"the compiled kernels cannot be kept: {counts.unsaved}; set NUMBA_CACHE_DIR")
    print(f"kernels     {counts.compiled} compiled, {counts.loaded} already there")
    print(f"CPU         {cache.target_cpu()}, vectors of {WIDTH} float32")
    print(f"kept in     {', '.join(sorted({str(path.parent) for path in cache.entries()}))}")
