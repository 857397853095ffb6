"""Where the numbers in minilm_np/ops.py's gelu come from: `python bench/fit_gelu.py` prints them.

Fits P in 0.5 erfc(a / sqrt(2)) = exp(-a^2 / 2) t P(t), t = 1 / (1 + 0.3 a), for 0 <= a <= 13 (beyond it
exp(-a^2 / 2) is below float32). Iteratively reweighted least squares in the Chebyshev basis approaches the
minimax polynomial; 0.3 is the best of the scales 0.26 to 0.35.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.polynomial import Chebyshev, Polynomial

A_MAX = 13.0


def fit(scale: float = 0.3, degree: int = 7, iterations: int = 300) -> tuple[list[float], float]:
    """(coefficients from the highest power down, largest relative error over the fitted points)."""
    t_min = 1 / (1 + scale * A_MAX)
    nodes = np.cos(np.pi * (np.arange(2000) + 0.5) / 2000)  # Chebyshev nodes in [-1, 1]
    t = t_min + (nodes + 1) / 2 * (1 - t_min)
    a = (1 / t - 1) / scale
    wanted = np.array([0.5 * math.exp(v * v / 2) * math.erfc(v * math.sqrt(0.5)) for v in a]) / t
    weights = 1 / wanted
    for _ in range(iterations):
        polynomial = Chebyshev.fit(t, wanted, degree, domain=[t_min, 1], w=weights)
        error = np.abs(polynomial(t) / wanted - 1)
        weights *= (0.2 + error / error.max()) ** 0.3
    return polynomial.convert(kind=Polynomial).coef[::-1].tolist(), float(error.max())


if __name__ == "__main__":
    coefficients, error = fit()
    print(f"relative error {error:.2e}")
    print("\n".join(f"    {c:.9g}," for c in coefficients))
