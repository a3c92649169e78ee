"""Tuning before comparing: a search over a recipe's hyperparameters by the loss on held-out training pairs.

A comparison of recipes at settings that suit one of them measures the settings (Brigato et al. 2022). So each mixture
has the same number of trials; the first is the recipe as written. Pairs of the mixture are held out by a hash of the
uid and a seed, all copies of a pair together; no evaluation set is used.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config.tuning import HyperparameterValues, SearchRange
from pipeline.core.sampling import is_held_out
from pipeline.errors import StageFailed
from pipeline.export.manifest import manifest, sizes_json
from pipeline.models.embedder import Embedder
from pipeline.models.image_embedding import embed_image_files
from pipeline.shards.tar_format import ShardWriter, StoredPair, read_pairs
from pipeline.storage.store import Store
from pipeline.training.recipe import TrainingRecipe

RESULT_VERSION = 1
"""The version of optuna's sampler's results: raised where a new version of optuna proposes other values."""


RECIPE_KEYS = ("lr", "wd", "warmup")


STARTUP_TRIALS = 5
"""Random trials before the estimator is used; its default of 10 is more than many searches have."""


@dataclass(frozen=True)
class Trial:
    """A trial and its `loss` on the held-out pairs, None where the training diverged."""

    number: int
    values: HyperparameterValues
    loss: float | None

    def plain(self) -> dict[str, Any]:
        """Return the trial as JSON-compatible data."""
        return {"number": self.number, "values": self.values, "loss": self.loss}


def with_values(recipe: TrainingRecipe, values: Mapping[str, float | int]) -> TrainingRecipe:
    """Return the recipe with a trial's values in place of its own."""
    own = {key: value for key, value in values.items() if key in RECIPE_KEYS}
    flags = {key.removeprefix("flags."): value for key, value in values.items() if key not in RECIPE_KEYS}
    return replace(recipe, flags={**recipe.flags, **flags}, **own)  # type: ignore[arg-type]


def split_held_out(export: Path, folder: Path, share: float, seed: int) -> list[StoredPair]:
    """Write an export's pairs except the held-out ones to `folder`, as an export; return the held-out ones, once each.

    Tars keep their names, factors and order; the same input gives the same bytes. Raises StageFailed where a tar would
    be empty, or fewer than two pairs are held out.
    """
    listing = json.loads((export / "manifest.json").read_text("utf-8"))
    store, held_out, tars = Store(str(folder)), dict[str, StoredPair](), list[dict[str, Any]]()
    for name, tar in sorted(listing["tars"].items()):
        kept_pairs = 0
        with (export / name).open("rb") as source, (export / name).open("rb") as ranges, store.create(name) as target:
            writer = ShardWriter(target)
            for pair in read_pairs(source):
                if is_held_out(pair.uid, share, seed):
                    held_out.setdefault(pair.uid, pair)
                    continue
                kept_pairs += 1
                ranges.seek(pair.offset)
                writer.append(ranges.read(pair.size))
            digest = writer.close()
        if not kept_pairs:
            raise StageFailed(
                f"{export / name}: every pair would be held out; expected training.tuning.held_out below {share}"
            )
        tars.append({**tar, "tar": name, "pairs": kept_pairs, "bytes": writer.bytes, "sha256": digest})
    if len(held_out) < 2:
        raise StageFailed(
            f"{export}: {len(held_out)} pairs are held out, expected at least 2 (training.tuning.held_out)"
        )
    store.write("manifest.json", manifest(listing["mixture"], listing["job"], {}, tars))
    store.write("sizes.json", sizes_json(tars))
    return [held_out[uid] for uid in sorted(held_out, key=lambda uid: hashlib.sha256(uid.encode()).digest())]


def held_out_loss(model: Embedder, scale: float, pairs: Sequence[StoredPair], batch: int) -> float:
    """Return the model's contrastive loss on pairs that it was not trained on, the mean over whole batches.

    It is the training objective (Radford et al. 2021, figure 3): the cross-entropy of each image's caption among the
    batch's, and of each caption's image, at the model's logit scale. Fewer pairs than a batch form one batch. NaN or
    infinite where an embedding is.
    """
    _, images = embed_image_files(((pair.uid, pair.jpg) for pair in pairs), "held-out pairs", model)
    texts = model.embed_texts([pair.caption for pair in pairs], 256)
    size = min(batch, len(pairs))
    starts = range(0, len(pairs) - size + 1, size)
    return float(np.mean([_loss(images[at : at + size], texts[at : at + size], scale) for at in starts]))


def _loss(images: npt.NDArray[np.float32], texts: npt.NDArray[np.float32], scale: float) -> float:
    logits = scale * images.astype(np.float64) @ texts.astype(np.float64).T
    matching = np.diag(logits)
    return float(((_log_sum(logits) - matching).mean() + (_log_sum(logits.T) - matching).mean()) / 2)


def _log_sum(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    largest = logits.max(axis=1)
    result: npt.NDArray[np.float64] = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
    return result


class HyperparameterSearch:
    """A search by optuna's tree-structured Parzen estimator (Bergstra et al. 2011); the recipe is the first trial.

    The values depend only on the seed and the earlier losses, so a stopped search resumes from stored losses. Calls of
    `ask` and `tell` alternate.
    """

    def __init__(self, ranges: Mapping[str, SearchRange], start: Mapping[str, float | int], seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._failed_state = optuna.trial.TrialState.FAIL
        self._study = optuna.create_study(
            sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
        )
        self._study.enqueue_trial(dict(start))
        self._spaces = {key: _space(search_range) for key, search_range in ranges.items()}
        self._pending: Any = None
        self.trials: list[Trial] = []

    def ask(self) -> HyperparameterValues:
        """Return the values of the next trial."""
        self._pending = self._study.ask(self._spaces)
        return dict(self._pending.params)

    def tell(self, loss: float | None) -> None:
        """Record the trial's loss, None where it diverged; a loss that is not finite counts as None."""
        loss = loss if loss is not None and math.isfinite(loss) else None
        self.trials.append(Trial(len(self.trials), dict(self._pending.params), loss))
        if loss is None:
            self._study.tell(self._pending, state=self._failed_state)
        else:
            self._study.tell(self._pending, loss)

    @property
    def best(self) -> Trial | None:
        """The trial with the lowest loss, the first of equals; None where all diverged."""
        finished = [trial for trial in self.trials if trial.loss is not None]
        return min(finished, key=lambda trial: (trial.loss, trial.number)) if finished else None


def _space(search_range: SearchRange) -> Any:
    from optuna.distributions import FloatDistribution, IntDistribution

    if search_range.whole:
        return IntDistribution(int(search_range.low), int(search_range.high), log=search_range.log)
    return FloatDistribution(search_range.low, search_range.high, log=search_range.log)
