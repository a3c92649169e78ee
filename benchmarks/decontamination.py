"""How many copies of evaluation images each search finds, by how they were altered, and how many clean images it drops.

The searches are the product's (`filters.signals.evaluation_overlap`), with the thresholds of the presets: PDQ within 31
bits, a local alignment of `SAME_PICTURE_SCORE`, and a cosine that is half as far from 1 as any that a third of the
clean images has; the others are counted. Beside it stand the duplicates among the copies and clean images, by the
product's `duplicates` (PDQ) and `semantic` (cosine).

- drawn: six styles of the demo's world;
- real: PACS, its four test sets against its training images, but for those that show a picture of a test set.

There are no published weights here: the CLIP model is a small one, trained within the benchmark on the clean images and
captions of class and style for a minute. What it finds is a floor for what a model of the field would find.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.albums import REAL, Album, Image, Shown, drawn_album, real_album
from benchmarks.small_clip import Embed, trained
from filters.search.approximate import ExactSearcher
from filters.search.connected_components import component_labels
from filters.search.image_alignment import SAME_PICTURE_SCORE
from filters.signals.duplicates import DuplicatesSignal
from filters.signals.evaluation_index import EvaluationIndex, ImageDescriptors
from filters.signals.evaluation_overlap import EvaluationOverlapSignal
from filters.signals.semantic_dedup import compare_rows
from pipeline.images.pdq import MIN_QUALITY, PDQ_BYTES, SAME_PICTURE_BITS, pdq_fingerprint

Vectors = npt.NDArray[np.float16]


Flags = npt.NDArray[np.bool_]


SEARCHES = ("pdq", "cosine", "aligned")


SAMPLES = 9_600


def indexes(evaluation: Sequence[Shown], embed: Embed) -> list[EvaluationIndex]:
    """Return an index for each set."""
    found = []
    for name in dict.fromkeys(one.group for one in evaluation):
        own = [one for one in evaluation if one.group == name]
        vectors = ExactSearcher.of(embed([one.image for one in own]))
        found.append(
            EvaluationIndex.of(name, [one.key for one in own], [ImageDescriptors.of(one.image) for one in own], vectors)
        )
    return found


def nearest(images: Sequence[Image], vectors: Vectors, held: Sequence[EvaluationIndex]) -> pa.Table:
    """Return the signal `nearest` of images, whose uids are their numbers."""
    rows = pa.table(
        {
            "uid": [str(number) for number in range(len(images))],
            "source": ["bench"] * len(images),
            "pdq": pa.array([pdq_fingerprint(image)[0] for image in images], pa.binary()),
            "image_embedding": pa.array([vector.astype("<f2").tobytes() for vector in vectors], pa.binary()),
        }
    )
    return EvaluationOverlapSignal("pdq_v1", "clip_v1").compute(
        rows, held, lambda wanted: (images[row] for row in wanted.tolist())
    )


def dropped(found: pa.Table, cosine: float) -> dict[str, Flags]:
    """Return which rows each search drops, as the filter `not_in_evaluation` does."""
    distance, quality, near, aligned = (
        found[name].to_pandas().to_numpy(np.float64, na_value=np.nan)
        for name in ("pdq_distance", "pdq_quality", "cosine", "aligned")
    )
    flags = {
        "pdq": (distance <= SAME_PICTURE_BITS) & (quality >= MIN_QUALITY),
        "cosine": near >= cosine,
        "aligned": aligned >= SAME_PICTURE_SCORE,
    }
    return flags | {"union": flags["pdq"] | flags["cosine"] | flags["aligned"]}


def named(found: pa.Table, shown: Sequence[Shown]) -> Flags:
    """Return for which rows one of the searches names the image that they are a copy of."""
    right = np.zeros(len(shown), bool)
    for search in SEARCHES:
        names = zip(found[f"{search}_set"].to_pylist(), found[f"{search}_key"].to_pylist(), strict=True)
        right |= np.array([name == (one.group, one.key) for name, one in zip(names, shown, strict=True)])
    return right


def cosine_of(cosines: npt.NDArray[Any]) -> float:
    """Return a cosine half as far from 1 as the largest of clean images."""
    return float((1 + cosines.astype(np.float64).max()) / 2)


def table(album: Album, embed: Embed) -> dict[str, Any]:
    """Return the recall of each search and of their union by alteration, and the share of clean images that they drop.

    `named` is the share of copies of which some search names the original. Precision counts the copies of an alteration
    and all clean images as what there is.
    """
    held = indexes(album.evaluation, embed)
    clean = [one.image for one in album.clean]
    vectors = embed(clean)
    about = nearest(clean, vectors, held)
    setting = np.arange(len(clean)) % 3 == 0
    cosine = cosine_of(about["cosine"].to_numpy()[setting])
    counted = {search: flags[~setting] for search, flags in dropped(about, cosine).items()}
    by_alteration = {}
    for name, copies in album.copies.items():
        images = [one.image for one in copies]
        found = nearest(images, embed(images), held)
        hits = dropped(found, cosine)
        by_alteration[name] = {
            "copies": len(copies),
            "recall": {search: _share(flags) for search, flags in hits.items()},
            "precision": {
                search: round(hit / max(hit + int(counted[search].sum()), 1), 4)
                for search, hit in ((search, int(flags.sum())) for search, flags in hits.items())
            },
            "named": _share(named(found, copies)),
        }
    return {
        "evaluation_images": len(album.evaluation),
        "clean_images": int((~setting).sum()),
        "cosine": round(cosine, 5),
        "false_drops": {search: _share(flags) for search, flags in counted.items()},
        "by_alteration": by_alteration,
    }


def _share(flags: Flags) -> float:
    return round(float(flags.mean()), 4) if len(flags) else 0.0


def duplicates(album: Album, embed: Embed) -> dict[str, Any]:
    """Return by alteration the share of copies that stand in their original's group, and which edges link copies.

    The corpus is the originals that are copied, their copies and every third clean image; `precision` is the share of
    the edges found that link two images of one original.
    """
    originals = {(one.group, one.key): place for place, one in enumerate(album.evaluation)}
    copied = [album.evaluation[originals[one.group, one.key]] for one in next(iter(album.copies.values()))]
    shown = [*copied, *(one for copies in album.copies.values() for one in copies), *album.clean[::3]]
    owner = np.arange(len(shown))
    owner[: len(copied) * (1 + len(album.copies))] = np.tile(np.arange(len(copied)), 1 + len(album.copies))
    images = [one.image for one in shown]
    vectors = embed(images)
    clean = vectors[len(vectors) - len(album.clean[::3]) :]
    cosine = cosine_of(compare_rows(lambda first, stop: clean[first:stop], 0, len(clean), 1).most)
    edges = compare_rows(lambda first, stop: vectors[first:stop], 0, len(vectors), cosine).edges
    found = {"pdq": _by_print(images), "cosine": edges}
    groups_of = {search: component_labels(len(shown), edges) for search, edges in found.items()}
    recalls = {}
    for number, name in enumerate(album.copies, start=1):
        places = np.arange(len(copied)) + number * len(copied)
        together = {search: labels[places] == labels[: len(copied)] for search, labels in groups_of.items()}
        recalls[name] = {search: _share(flags) for search, flags in together.items()}
        recalls[name]["union"] = _share(together["pdq"] | together["cosine"])
    precision = {search: _share(owner[edges[:, 0]] == owner[edges[:, 1]]) for search, edges in found.items()}
    return {"images": len(shown), "cosine": round(cosine, 5), "precision": precision, "recall": recalls}


def _by_print(images: Sequence[Image]) -> npt.NDArray[np.int64]:
    prints = [pdq_fingerprint(image) for image in images]
    good = np.flatnonzero([quality >= MIN_QUALITY for _, quality in prints])
    codes = np.frombuffer(b"".join(prints[row][0] for row in good), np.uint8).reshape(-1, PDQ_BYTES)
    distinct, first, place = np.unique(codes, axis=0, return_index=True, return_inverse=True)
    signal = DuplicatesSignal("pdq_v1")
    edges = [good[first[signal.compare(distinct, task).edges]] for task in signal.tasks(len(distinct))]
    same = np.stack([good[first[place.ravel()]], good], axis=1)
    return np.concatenate([*edges, same[same[:, 0] != same[:, 1]]])


def remembered(embed: Embed) -> Embed:
    """Return an embedding that embeds each image object once."""
    known: dict[int, npt.NDArray[np.float16]] = {}

    def recalled(images: Sequence[Image]) -> Vectors:
        new = [image for image in images if id(image) not in known]
        if new:
            known.update(zip(map(id, new), embed(new), strict=True))
        return np.stack([known[id(image)] for image in images])

    return recalled


def measured(album: Album) -> dict[str, Any]:
    """Return both tables of an album, with embeddings by a model trained on its clean images."""
    embed = remembered(trained(album.clean, SAMPLES))
    return table(album, embed) | {"duplicates": duplicates(album, embed)}


def measure_drawn() -> dict[str, Any]:
    """Return the tables of drawn images."""
    return {"decontamination_drawn": measured(drawn_album(11, 250, 40, 300))}


def measure_real() -> dict[str, Any]:
    """Return the tables of real images, or why there are none."""
    if not REAL.is_dir():
        return {"decontamination_real": {"skipped": f"{REAL}: no such folder"}}
    return {"decontamination_real": measured(real_album(60))}
