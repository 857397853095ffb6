"""Measure the time of each operation of the forward pass: `python bench/where.py`.

One thread, chunks of about 320 tokens in texts of 20, 64 and 256 tokens, both op sets.
`python bench/generate/pictures.py` draws docs/images/where.svg.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
from ladder import one_blas_thread

from minilm_np import kernels, model, ops, weights

LENGTHS = (20, 64, 256)


class Timed:
    """Wrap an op set and add up the seconds of each operation; dense layers are named by their shape."""

    def __init__(self, op_set: Any):
        self._op_set = op_set
        self.seconds: dict[str, float] = {}

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._op_set, name)

        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = operation(*arguments)
            took = time.perf_counter() - start
            key = name
            if name == "linear":
                columns, inputs = result.shape[1], arguments[0].shape[1]
                key = {3: "query, key, value", 1: "attention.output"}.get(columns // inputs, "intermediate")
                key = "output" if columns < inputs else key
            self.seconds[key] = self.seconds.get(key, 0.0) + took
            return result

        return timed


def flop(operation: str, T: int, S: int, config: model.BertConfig) -> float:
    """Return an operation's matmul FLOPs in a forward pass over T tokens in texts of S tokens; a multiply-add is 2."""
    H, intermediate = config.hidden_size, config.intermediate_size
    per_token = {
        "query, key, value": 2 * H * 3 * H,
        "attention": 4 * S * H,
        "attention.output": 2 * H * H,
        "intermediate": 2 * H * intermediate,
        "output": 2 * H * intermediate,
    }
    return float(config.num_hidden_layers * T * per_token.get(operation, 0))


def measure(
    berts: dict[str, model.Bert], rounds: int = 9, tokens: int = 320
) -> dict[tuple[str, int], dict[str, float]]:
    """Return the seconds of each operation in one forward pass, by model name and text length.

    The values are medians over rounds. Each round measures one pass for every model and text length, after two warm-up
    passes.
    """
    seen: dict[tuple[str, int], dict[str, list[float]]] = {}
    for _ in range(rounds):
        for name, bert in berts.items():
            for S in LENGTHS:
                B = max(1, tokens // S)
                token_ids = np.random.default_rng(0).integers(1000, bert.config.vocab_size - 1, B * S).astype(np.int32)
                offsets = np.arange(B + 1, dtype=np.int64) * S
                for _ in range(3):
                    timed = Timed(bert.ops)
                    model.forward(bert._replace(ops=timed), token_ids, np.zeros_like(token_ids), offsets)
                for operation, seconds in timed.seconds.items():
                    seen.setdefault((name, S), {}).setdefault(operation, []).append(seconds)
    return {key: {name: statistics.median(times) for name, times in table.items()} for key, table in seen.items()}


def main() -> dict[tuple[str, int], dict[str, float]]:
    """Measure and print; return the seconds of each operation by op set and text length."""
    _, config, params = weights.load()
    limit, _ = one_blas_thread()
    with limit:
        op_sets = {"Numba": kernels, "NumPy": ops}
        tables = measure({name: model.prepare(params, config, op_set) for name, op_set in op_sets.items()})
    for (name, S), table in tables.items():
        T, total = max(1, 320 // S) * S, sum(table.values())
        print(f"{name}, {T} tokens in texts of {S}: {1e3 * total:.1f} ms")
        for operation, seconds in sorted(table.items(), key=lambda item: -item[1]):
            speed = flop(operation, T, S, config) / seconds / 1e9
            print(f"  {operation:20}{100 * seconds / total:5.1f} %" + (f"{speed:8.0f} GFLOP/s" if speed else ""))
    return tables


if __name__ == "__main__":
    main()
