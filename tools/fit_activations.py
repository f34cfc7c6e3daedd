"""Fit the polynomials of csrc/activations.h: `python tools/fit_activations.py` prints them.

Invariant: every constant of that file that is not a textbook number is printed here, with the
largest relative error of the rounded polynomial over its interval. Needs mpmath.

Method: weighted least squares on Chebyshev nodes, reweighted towards the minimax solution
(C. L. Lawson, 1961), then rounded to float32 from the lowest coefficient up, the rest refitted.
"""

from collections.abc import Callable

import mpmath as mp
import numpy as np

mp.mp.dps = 40
_Function = Callable[[mp.mpf], mp.mpf]


def _lawson(basis: np.ndarray, target: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Coefficients c that nearly minimise max |basis @ c - target| / scale."""
    weight = np.ones(len(target))
    for _ in range(200):
        root = np.sqrt(weight) / scale
        c = np.linalg.lstsq(basis * root[:, None], target * root, rcond=None)[0]
        weight *= abs(basis @ c - target) / scale + 1e-30
        weight /= weight.sum()
    return c


def fit(name: str, f: _Function, lo: float, hi: float, degree: int, scale: _Function) -> None:
    """Print float32 coefficients, lowest first, of a polynomial near f on [lo, hi].

    `scale(x)` is what an error at x is measured against.
    """
    nodes = np.cos(np.pi * (np.arange(400) + 0.5) / 400) * (hi - lo) / 2 + (hi + lo) / 2
    target = np.array([float(f(mp.mpf(x))) for x in nodes])
    against = np.array([float(scale(mp.mpf(x))) for x in nodes])
    powers = nodes[:, None] ** np.arange(degree + 1)
    rounded: list[np.float32] = []
    for i in range(degree + 1):
        rest = target - powers[:, :i] @ np.array(rounded, np.float64)
        rounded.append(np.float32(_lawson(powers[:, i:], rest, against)[0]))
    error = abs(powers @ np.array(rounded, np.float64) - target) / against
    print(f"{name} on [{lo}, {hi}], degree {degree}: error {error.max() * 2**24:.4f} * 2^-24")
    print("   ", ", ".join(f"{float(c).hex()}f" for c in rounded))


def main() -> None:
    half = mp.mpf(1) / 2

    def exp_rest(r: mp.mpf) -> mp.mpf:  # e^r = 1 + r + r^2 q(r)
        return (mp.e**r - 1 - r) / r**2 if abs(r) > 1e-9 else half

    fit("exp q(r)", exp_rest, -0.3467, 0.3467, 4, lambda r: mp.e**r / max(r**2, mp.mpf("1e-4")))

    def tanh_rest(s: mp.mpf) -> mp.mpf:  # tanh x = x + x s q(s), s = x^2
        x = mp.sqrt(s)
        return (mp.tanh(x) / x - 1) / s

    fit("tanh q(s)", tanh_rest, 1e-6, 0.4225, 5, lambda s: 1 / s)

    def log1p_rest(s: mp.mpf) -> mp.mpf:  # log1p e = t + t s q(s), t = 2e/(2+e), s = t^2
        t = mp.sqrt(s)
        return (2 * mp.atanh(t / 2) / t - 1) / s

    fit("log1p q(s)", log1p_rest, 1e-6, 0.4445, 4, lambda s: 1 / s)

    k = mp.mpf(3)

    # Phi(-a) = exp(-a^2/2) h(t) / (a + k), t = (a - k) / (a + k): the division keeps h from falling
    # towards 0, where the polynomial's rounding errors would be large beside it.
    def h(t: mp.mpf) -> mp.mpf:
        a = k * (1 + t) / (1 - t)
        return (a + k) * mp.erfc(a / mp.sqrt(2)) / 2 * mp.e ** (a * a / 2)

    end = float((mp.mpf("14.5") - k) / (mp.mpf("14.5") + k))
    fit("gelu h(t), k = 3", h, -1.0, end, 9, h)

    for name, value in {
        "log2(e)": 1 / mp.log(2), "ln2": mp.log(2), "selu scale": mp.mpf("1.0507009873554804934193349852946"),
        "selu scale*alpha": mp.mpf("1.0507009873554804934193349852946") * mp.mpf("1.6732632423543772848170429916717"),
        "2 sqrt(2/pi)": 2 * mp.sqrt(2 / mp.pi), "2 sqrt(2/pi) 0.044715": 2 * mp.sqrt(2 / mp.pi) * mp.mpf("0.044715"),
    }.items():  # fmt: skip
        head = np.float32(float(value))
        tail = np.float32(float(value - mp.mpf(float(head))))
        print(f"{name} = {float(head).hex()}f + {float(tail).hex()}f")


if __name__ == "__main__":
    main()
