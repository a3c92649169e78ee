"""The weight of each model in a bootstrap draw: seeds are resampled within each size."""

from collections.abc import Hashable, Sequence

import numpy as np

from pipeline.robustness.axes import Floats


def draw_models(groups: Sequence[str], draws: int, seed: int, cells: Sequence[Hashable] | None = None) -> Floats:
    """Return the weight of each model in each draw (draws, models), where the models of each group are resampled.

    From n models n - 1 are drawn with replacement, each with the weight n / (n - 1): the variance of a mean is then the
    unbiased one, while n of n would reduce that of three seeds by a third (McCarthy and Snowden 1985, Rao and Wu 1988).
    A single model is in every draw, with the weight 1: its noise is in no interval. `cells` (models,), where given,
    names for each model what it has in common with a model of another group, such as its seed: groups with the same
    cells get the same draws, so that differences between them are paired. Without cells each group is drawn
    independently. Raises ValueError where a cell occurs twice in a group.
    """
    weights, weights_by_key = np.zeros((draws, len(groups))), dict[tuple[Hashable, ...], Floats]()
    for group in sorted(set(groups)):
        members = [model for model, name in enumerate(groups) if name == group]
        key: tuple[Hashable, ...] = (group,)
        if cells is not None:
            members.sort(key=lambda model: str(cells[model]))
            key = ("cells", *(cells[model] for model in members))
            if len(set(key[1:])) < len(members):
                raise ValueError(f"{group}: expected each cell once in a group, found {list(key[1:])}")
        if key not in weights_by_key:
            # A separate random stream for each set of cells: it does not depend on what other groups contain.
            stream = np.random.default_rng([seed, *repr(key).encode()])
            n = len(members)
            n_drawn = max(n - 1, 1)
            weights_by_key[key] = stream.multinomial(n_drawn, np.full(n, 1 / n), draws).astype(np.float64) * (
                n / n_drawn
            )
        weights[:, members] = weights_by_key[key]
    return weights


def draw_seeds(groups: Sequence[str], sizes: Sequence[int], seeds: Sequence[int], draws: int, seed: int) -> Floats:
    """Return the weight of each model in each draw (draws, models), for a grid of groups, sizes and seeds.

    Seeds are resampled within each size, so every draw keeps all sizes; two groups with the same seeds at a size get
    the same draws. Sizes are drawn independently: an effect that a seed has on all sizes is not in the draws.
    Raises ValueError where two models have the same group, size and seed.
    """
    weights = np.zeros((draws, len(groups)))
    for size in sorted(set(sizes)):
        members = [model for model, model_size in enumerate(sizes) if model_size == size]
        cells = [(int(size), int(seeds[model])) for model in members]
        weights[:, members] = draw_models([groups[model] for model in members], draws, seed, cells)
    return weights
