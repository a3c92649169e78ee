"""Tuning before comparing: a search over a recipe's numbers by the loss on training pairs that were held out.

A comparison of recipes at settings that suit one of them measures the settings (Brigato et al. 2022). So each mixture
has the same number of trials; the first is the recipe as it is written. What is held out are pairs of the mixture, by
a hash of the uid and a seed, all copies of a pair together; no evaluation set is looked at.
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

from pipeline.config.tuning import Range, Values
from pipeline.errors import StageFailed
from pipeline.export.manifest import manifest, sizes
from pipeline.models.embedder import Embedder
from pipeline.models.image_embedding import embed_pictures
from pipeline.shards.tar_format import ShardWriter, StoredPair, read_pairs
from pipeline.storage.store import Store
from pipeline.training.recipe import Recipe

RESULT_VERSION = 1
"""What optuna's sampler asks for: raised where a new version asks for other values."""


OWN = ("lr", "wd", "warmup")


STARTUP = 5
"""Trials at random before the estimator has its say; its own default of 10 is more than many searches have."""


@dataclass(frozen=True)
class Trial:
    """A trial and what it came to: `loss` on the held-out pairs, None where the training diverged."""

    number: int
    values: Values
    loss: float | None

    def plain(self) -> dict[str, Any]:
        """Return it as JSON's kinds."""
        return {"number": self.number, "values": self.values, "loss": self.loss}


def with_values(recipe: Recipe, values: Mapping[str, float | int]) -> Recipe:
    """Return the recipe with a trial's values in place of its own."""
    own = {key: value for key, value in values.items() if key in OWN}
    flags = {key.removeprefix("flags."): value for key, value in values.items() if key not in OWN}
    return replace(recipe, flags={**recipe.flags, **flags}, **own)  # type: ignore[arg-type]


def is_held_out(uid: str, share: float, seed: int) -> bool:
    """Tell whether a pair is held out: a hash of its uid, of its own, as the draw of the mixture is one as well."""
    found = hashlib.sha256(f"held out:{seed}:{uid}".encode()).digest()[:8]
    return int.from_bytes(found, "big") < share * 2**64


def split(export: Path, folder: Path, share: float, seed: int) -> list[StoredPair]:
    """Write an export's pairs without those held out to `folder`, as one to train on; return those, once each.

    Tars keep their names, factors and order; the same input gives the same bytes. Raises StageFailed where nothing is
    left of a tar, or fewer than two pairs are held out.
    """
    said = json.loads((export / "manifest.json").read_text("utf-8"))
    store, held, tars = Store(str(folder)), dict[str, StoredPair](), list[dict[str, Any]]()
    for name, about in sorted(said["tars"].items()):
        kept = 0
        with (export / name).open("rb") as source, (export / name).open("rb") as ranges, store.create(name) as target:
            writer = ShardWriter(target)
            for pair in read_pairs(source):
                if is_held_out(pair.uid, share, seed):
                    held.setdefault(pair.uid, pair)
                    continue
                kept += 1
                ranges.seek(pair.offset)
                writer.append(ranges.read(pair.size))
            digest = writer.close()
        if not kept:
            raise StageFailed(
                f"{export / name}: every pair would be held out; expected training.tuning.held_out below {share}"
            )
        tars.append({**about, "tar": name, "pairs": kept, "bytes": writer.bytes, "sha256": digest})
    if len(held) < 2:
        raise StageFailed(f"{export}: {len(held)} pairs are held out, expected at least 2 (training.tuning.held_out)")
    store.write("manifest.json", manifest(said["mixture"], said["job"], {}, tars))
    store.write("sizes.json", sizes(tars))
    return [held[uid] for uid in sorted(held, key=lambda uid: hashlib.sha256(uid.encode()).digest())]


def held_out_loss(model: Embedder, scale: float, pairs: Sequence[StoredPair], batch: int) -> float:
    """Return the model's contrastive loss on pairs that it was not trained on, the mean over whole batches.

    It is the training's own objective (Radford et al. 2021, figure 3): the cross-entropy of each image's caption among
    the batch's, and of each caption's image, at the model's logit scale. Fewer pairs than a batch are one. NaN or
    infinite where an embedding is.
    """
    _, images = embed_pictures(((pair.uid, pair.jpg) for pair in pairs), "held-out pairs", model)
    texts = model.embed_texts([pair.caption for pair in pairs], 256)
    size = min(batch, len(pairs))
    starts = range(0, len(pairs) - size + 1, size)
    return float(np.mean([_loss(images[at : at + size], texts[at : at + size], scale) for at in starts]))


def _loss(images: npt.NDArray[np.float32], texts: npt.NDArray[np.float32], scale: float) -> float:
    logits = scale * images.astype(np.float64) @ texts.astype(np.float64).T
    own = np.diag(logits)
    return float(((_log_sum(logits) - own).mean() + (_log_sum(logits.T) - own).mean()) / 2)


def _log_sum(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    top = logits.max(axis=1)
    found: npt.NDArray[np.float64] = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return found


class Search:
    """A search by optuna's tree-structured Parzen estimator (Bergstra et al. 2011); the recipe's own values go first.

    What it asks for depends on the seed and on what it was told before alone, so whoever keeps the losses goes on
    where a search was stopped. Ask and tell take turns.
    """

    def __init__(self, ranges: Mapping[str, Range], start: Mapping[str, float | int], seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._failed = optuna.trial.TrialState.FAIL
        self._study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP))
        self._study.enqueue_trial(dict(start))
        self._spaces = {key: _space(one) for key, one in ranges.items()}
        self._asked: Any = None
        self.trials: list[Trial] = []

    def ask(self) -> Values:
        """Return the values of the next trial."""
        self._asked = self._study.ask(self._spaces)
        return dict(self._asked.params)

    def tell(self, loss: float | None) -> None:
        """Say what the trial came to: its loss, None where it diverged; a loss that is no number is none."""
        loss = loss if loss is not None and math.isfinite(loss) else None
        self.trials.append(Trial(len(self.trials), dict(self._asked.params), loss))
        if loss is None:
            self._study.tell(self._asked, state=self._failed)
        else:
            self._study.tell(self._asked, loss)

    @property
    def best(self) -> Trial | None:
        """The trial of the lowest loss, the first of equals; None where all diverged."""
        done = [one for one in self.trials if one.loss is not None]
        return min(done, key=lambda one: (one.loss, one.number)) if done else None


def _space(one: Range) -> Any:
    from optuna.distributions import FloatDistribution, IntDistribution

    if one.whole:
        return IntDistribution(int(one.low), int(one.high), log=one.log)
    return FloatDistribution(one.low, one.high, log=one.log)
