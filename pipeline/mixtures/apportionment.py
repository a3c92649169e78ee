"""Mixtures: shares apportioned exactly; pairs chosen by a hash, so that a smaller mixture is a part of a larger."""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from pipeline.errors import InputError


def _exact(shares: Mapping[str, float]) -> dict[str, Fraction]:
    """Return the shares as the decimals that a person wrote, so that no sum depends on the order."""
    return {name: Fraction(str(share)) for name, share in shares.items()}


def apportion(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Return whole numbers that sum to `total`, in proportion to `shares`, by Hamilton's method.

    Each gets its quota rounded down; what is left goes to the largest remainders, ties to the first name. So a count
    is its quota rounded down or up. A larger total leaves no count smaller where it adds a whole pair or more to each
    quota. Of two totals nearer than that, one of three or more counts can be one smaller under the larger total (the
    Alabama paradox; Balinski and Young 1982, Fair Representation).
    """
    exact = _exact(shares)
    whole = sum(exact.values())
    quotas = {name: total * share / whole for name, share in exact.items()}
    counts = {name: int(quota) for name, quota in quotas.items()}
    by_remainder = sorted(quotas, key=lambda name: (counts[name] - quotas[name], name))
    for name in by_remainder[: total - sum(counts.values())]:
        counts[name] += 1
    return counts


@dataclass(frozen=True)
class Quota:
    """What a mixture takes from one part: `pairs` in all, over `available` distinct ones.

    They are the first by rank, so of two quotas over the same pairs the smaller takes no pair more often.
    """

    pairs: int
    available: int

    def times(self, rank: int) -> int:
        """Return how often the pair of this rank (from 0) is taken: whole rounds over all, then the first ranks."""
        rounds, rest = divmod(self.pairs, self.available)
        return rounds + (1 if rank < rest else 0)


def _largest_total(shares: Mapping[str, float], available: Mapping[str, int], repeat: int) -> int:
    """Return the largest total of which each part has its whole quota; no smaller one falls short either."""
    exact = _exact(shares)
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
    """Return the quota of each part (a source, say) for mixture `name`. `total` None means as many as there are.

    Without shares, every part gives all it has, or its part of `total` in proportion to what it has. On a shortage:
    "fail" raises InputError, "shrink" takes the largest total that the shares allow, "repeat" takes pairs up to
    `repeat` times and fails beyond.
    """
    most = repeat if shortage == "repeat" else 1
    if not shares:
        shares = {source: float(count) for source, count in available.items() if count}
    if not shares or any(available[source] == 0 for source in shares):
        empty = [source for source in shares if available[source] == 0] or list(available)
        raise InputError(f"mixtures.{name}: no pair is left of {', '.join(empty)} after its filter")
    largest = _largest_total(shares, available, most)
    if total is None or (total > largest and shortage == "shrink"):
        total = largest
    if total > largest:
        have = ", ".join(f"{source} {available[source]}" for source in shares)
        raise InputError(
            f"mixtures.{name}.total: found {total}, expected at most {largest} with these shares and shortage: "
            f"{shortage} (available: {have})"
        )
    return {source: Quota(count, available[source]) for source, count in apportion(shares, total).items() if count}
