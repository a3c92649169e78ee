"""Which models a bootstrap draw holds: seeds are drawn anew within each size of a ladder."""

from collections.abc import Hashable, Sequence

import numpy as np

from pipeline.robustness.axes import Floats


def draw_models(groups: Sequence[str], draws: int, seed: int, cells: Sequence[Hashable] | None = None) -> Floats:
    """Return the weight of each model in each draw (draws, models), when the models of each group are drawn anew.

    From n models n - 1 are drawn with replacement, each with the weight n / (n - 1): the variance of a mean is then the
    unbiased one, where n of n would take a third off that of three seeds (McCarthy and Snowden 1985, Rao and Wu 1988).
    A lone model stays in every draw, with the weight 1: its noise is in no interval. `cells` (models,), where given,
    names for each model what it has in common with a model of another group, such as its seed: groups with the same
    cells are drawn alike, so that differences between them are paired. Without cells each group is drawn by itself.
    Raises ValueError where a cell occurs twice in a group.
    """
    found, done = np.zeros((draws, len(groups))), dict[tuple[Hashable, ...], Floats]()
    for group in sorted(set(groups)):
        members = [model for model, one in enumerate(groups) if one == group]
        key: tuple[Hashable, ...] = (group,)
        if cells is not None:
            members.sort(key=lambda model: str(cells[model]))
            key = ("cells", *(cells[model] for model in members))
            if len(set(key[1:])) < len(members):
                raise ValueError(f"{group}: expected each cell once in a group, found {list(key[1:])}")
        if key not in done:
            # A stream of its own for each set of cells: what other groups hold changes nothing here.
            stream = np.random.default_rng([seed, *repr(key).encode()])
            n = len(members)
            taken = max(n - 1, 1)
            done[key] = stream.multinomial(taken, np.full(n, 1 / n), draws).astype(np.float64) * (n / taken)
        found[:, members] = done[key]
    return found


def draw_seeds(groups: Sequence[str], sizes: Sequence[int], seeds: Sequence[int], draws: int, seed: int) -> Floats:
    """Return the weight of each model in each draw (draws, models), for a grid of groups, sizes and seeds.

    Seeds are drawn anew within each size, so every draw keeps the whole ladder; two groups with the same seeds at a
    size get the same ones. Sizes are drawn apart from each other: an effect that one seed has on all sizes is not in
    the draws. Raises ValueError where two models have one group, size and seed.
    """
    found = np.zeros((draws, len(groups)))
    for size in sorted(set(sizes)):
        members = [model for model, one in enumerate(sizes) if one == size]
        cells = [(int(size), int(seeds[model])) for model in members]
        found[:, members] = draw_models([groups[model] for model in members], draws, seed, cells)
    return found
