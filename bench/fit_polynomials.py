"""Where the coefficients of gelu (minilm_np/ops.py) and of exp2 (minilm_np/kernels/simd.py) come from.

`python bench/fit_polynomials.py` prints them. Iteratively reweighted least squares in the Chebyshev basis approaches
the minimax polynomial.

gelu: P in 0.5 erfc(a / sqrt(2)) = exp(-a^2 / 2) t P(t), t = 1 / (1 + 0.3 a), for 0 <= a <= 13 (beyond it
exp(-a^2 / 2) is below float32); 0.3 is the best of the scales 0.26 to 0.35.
exp2: P in 2^r = 1 + r P(r), |r| <= 1/2.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numpy.polynomial import Chebyshev, Polynomial

Array = npt.NDArray[np.float64]
A_MAX = 13.0
NODES = np.cos(np.pi * (np.arange(2000) + 0.5) / 2000)  # Chebyshev nodes in [-1, 1]


def minimax(x: Array, wanted: Array, relative_to: Array, degree: int) -> tuple[list[float], float]:
    """(coefficients from the highest power down, largest |P(x) - wanted| / |relative_to| over the points)."""
    weights = 1 / np.abs(relative_to)
    for _ in range(300):
        polynomial = Chebyshev.fit(x, wanted, degree, domain=[x.min(), x.max()], w=weights)
        error = np.abs((polynomial(x) - wanted) / relative_to)
        weights *= (0.2 + error / error.max()) ** 0.3
    return polynomial.convert(kind=Polynomial).coef[::-1].tolist(), float(error.max())


def fit_gelu(scale: float = 0.3, degree: int = 7) -> tuple[list[float], float]:
    t_min = 1 / (1 + scale * A_MAX)
    t = t_min + (NODES + 1) / 2 * (1 - t_min)
    a = (1 / t - 1) / scale
    wanted = np.array([0.5 * math.exp(v * v / 2) * math.erfc(v * math.sqrt(0.5)) for v in a]) / t
    return minimax(t, wanted, wanted, degree)


def fit_exp2(degree: int = 5) -> tuple[list[float], float]:
    r = NODES / 2
    return minimax(r, np.expm1(r * math.log(2)) / r, np.exp2(r) / r, degree)


if __name__ == "__main__":
    for name, (coefficients, error) in (("gelu", fit_gelu()), ("exp2", fit_exp2())):
        print(f"{name}: relative error {error:.2e}")
        print("\n".join(f"    {c:.9g}," for c in coefficients))
