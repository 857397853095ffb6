"""Compute the coefficients of gelu (minilm_np/ops.py) and of exp2 (minilm_np/kernels/simd.py).

`python bench/generate/polynomials.py` prints them. The fit is iteratively reweighted least squares in the Chebyshev
basis, which approaches the minimax polynomial.

gelu: P in 0.5 erfc(a / sqrt(2)) = exp(-a^2 / 2) t P(t), t = 1 / (1 + 0.3 a). It is fitted for 0 <= a <= 13 in float32
and 0 <= a <= 37 in float64; for larger a, exp(-a^2 / 2) is negligible. The scale 0.3 gives the smallest error of the
scales 0.26 to 0.35.
exp2: P in 2^r = 1 + r P(r), |r| <= 1/2.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from numpy.polynomial import Chebyshev, Polynomial

Array = npt.NDArray[np.float64]
NODES = np.cos(np.pi * (np.arange(2000) + 0.5) / 2000)  # Chebyshev nodes in [-1, 1]


def minimax(x: Array, target: Array, relative_to: Array, degree: int, rounds: int = 300) -> tuple[list[float], float]:
    """Return P's coefficients, from the highest power down, and the largest |P(x) - target| / |relative_to|."""
    weights = 1 / np.abs(relative_to)
    for _ in range(rounds):
        polynomial = Chebyshev.fit(x, target, degree, domain=[x.min(), x.max()], w=weights)
        error = np.abs((polynomial(x) - target) / relative_to)
        weights *= (0.2 + error / error.max()) ** 0.3
    return polynomial.convert(kind=Polynomial).coef[::-1].tolist(), float(error.max())


def fit_gelu(scale: float, dtype: str = "float32") -> tuple[list[float], float]:
    """Return P's coefficients, from the highest power down, and its largest relative error."""
    # one round for float64: the remaining error is rounding noise, to which more rounds would fit the polynomial
    degree, a_max, rounds = (7, 13.0, 300) if dtype == "float32" else (20, 37.0, 1)
    t_min = 1 / (1 + scale * a_max)
    t = t_min + (NODES + 1) / 2 * (1 - t_min)
    z = (1 / t - 1) / scale * math.sqrt(0.5)
    # t is computed from the rounded z, because erfc and exp multiply the rounding error by z^2
    t = 1 / (1 + scale * math.sqrt(2) * z)
    target = np.array([0.5 * exp_of_square(v) * math.erfc(v) for v in z.tolist()]) / t
    return minimax(t, target, target, degree, rounds)


def exp_of_square(z: float) -> float:
    """Return exp(z^2). z * z would be rounded, and exp multiplies the rounding error by z^2."""
    high = round(z * 1024) / 1024
    return math.exp(high * high) * math.exp((z - high) * (z + high))


def fit_exp2(degree: int = 5) -> tuple[list[float], float]:
    """Return P's coefficients, from the highest power down, and the largest relative error of 2^r."""
    r = NODES / 2
    return minimax(r, np.expm1(r * math.log(2)) / r, np.exp2(r) / r, degree)


if __name__ == "__main__":
    for name, digits, (coefficients, error) in (
        ("gelu, float32", 9, fit_gelu(0.3)),
        ("gelu, float64", 17, fit_gelu(0.3, "float64")),
        ("exp2", 9, fit_exp2()),
    ):
        print(f"{name}: relative error {error:.2e}")
        print("\n".join(f"    {c:.{digits}g}," for c in coefficients))
