"""Exact intervals of accuracies."""

from scipy.stats import beta


def clopper_pearson(correct: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval of a share `correct` / `n` at `level` (Clopper and Pearson 1934), 0 to 1."""
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"expected 0 <= correct <= n and n > 0, found {correct} of {n}")
    tail = (1 - level) / 2
    low = 0.0 if correct == 0 else float(beta.ppf(tail, correct, n - correct + 1))
    high = 1.0 if correct == n else float(beta.ppf(1 - tail, correct + 1, n - correct))
    return low, high
