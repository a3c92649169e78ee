"""Exact apportionment of a mixture's shares into quotas.

Pairs are chosen by a hash rank, so a smaller mixture is a subset of a larger one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from pipeline.errors import InputError


def _exact_shares(shares: Mapping[str, float]) -> dict[str, Fraction]:
    """Return the shares as the exact decimals of the experiment file, so that no sum depends on the order."""
    return {name: Fraction(str(share)) for name, share in shares.items()}


def apportion(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Return whole numbers that sum to `total`, in proportion to `shares`, by Hamilton's method.

    Each name gets its quota rounded down; the rest goes to the largest remainders, ties to the first name. So a count
    is its quota rounded down or up. A larger total makes no count smaller where it adds a whole pair or more to each
    quota. With two totals nearer than that, one of three or more counts can be one smaller under the larger total (the
    Alabama paradox; Balinski and Young 1982, Fair Representation).
    """
    exact = _exact_shares(shares)
    whole = sum(exact.values())
    quotas = {name: total * share / whole for name, share in exact.items()}
    counts = {name: int(quota) for name, quota in quotas.items()}
    by_remainder = sorted(quotas, key=lambda name: (counts[name] - quotas[name], name))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


@dataclass(frozen=True)
class Quota:
    """The number of pairs that a mixture takes from one part: `pairs` with copies, out of `available` distinct ones.

    The first pairs by rank are taken, so of two quotas over the same pairs the smaller takes no pair more often.
    """

    pairs: int
    available: int

    def times(self, rank: int) -> int:
        """Return how often the pair of this rank (from 0) is taken: whole rounds over all, then the first ranks."""
        rounds, remainder = divmod(self.pairs, self.available)
        return rounds + (1 if rank < remainder else 0)


def _largest_total(shares: Mapping[str, float], available: Mapping[str, int], repeat: int) -> int:
    """Return the largest total for which each part can fill its quota; every smaller total can be filled too."""
    exact = _exact_shares(shares)
    whole = sum(exact.values())
    return min(int(repeat * available[name] * whole / share) for name, share in exact.items())


def quotas(
    name: str,
    shares: Mapping[str, float],
    total: int | None,
    available: Mapping[str, int],
    shortage: str,
    repeat: int,
) -> dict[str, Quota]:
    """Return the quota of each part (such as a source) of mixture `name`. `total` None means as many as possible.

    Without shares, each part gives all its available pairs, or a proportional number where there is a `total`. On a
    shortage, "fail" raises InputError, "shrink" takes the largest total that the shares allow, and "repeat" takes pairs
    up to `repeat` times and fails beyond that.
    """
    max_repeats = repeat if shortage == "repeat" else 1
    if not shares:
        shares = {source: float(count) for source, count in available.items() if count}
    if not shares or any(available[source] == 0 for source in shares):
        empty = [source for source in shares if available[source] == 0] or list(available)
        raise InputError(f"mixtures.{name}: found no pairs of {', '.join(empty)} after its filter, expected at least 1")
    largest = _largest_total(shares, available, max_repeats)
    if total is None or (total > largest and shortage == "shrink"):
        total = largest
    if total > largest:
        stock = ", ".join(f"{source} {available[source]}" for source in shares)
        raise InputError(
            f"mixtures.{name}.total: found {total}, expected at most {largest} with these shares and shortage: "
            f"{shortage} (available: {stock})"
        )
    return {source: Quota(count, available[source]) for source, count in apportion(shares, total).items() if count}
