"""Evaluations of a model's embeddings: a linear probe, and image-text retrieval."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.evaluate.rows import evaluation_columns, evaluation_rows
from jobs.workflow.evaluation_plan import open_split
from jobs.workflow.plan import Job
from jobs.workflow.runner import Run
from pipeline.errors import InputError
from pipeline.evaluation.datasets import EvaluationSet, open_captions
from pipeline.evaluation.linear_probe import fit_with_best_penalty
from pipeline.evaluation.retrieval import recall_at_depths
from pipeline.evaluation.zero_shot import Predictions, embed_set
from pipeline.ledger.schemas import TABLES
from pipeline.models.embedder import Embedder
from pipeline.models.image_embedding import embed_image_files


def probe_rows(run: Run, job: Job, model: Embedder) -> tuple[dict[str, pa.Table], dict[str, Any]]:
    """Return the rows of a linear probe, and the chosen penalty.

    Raises InputError where an image is in both the test and the training split, or there are too few images to fit.
    """
    name = job.config["probe"]
    train, test = open_split(run.experiment.file.evaluation, name)
    labels, training_images = _labels_and_digests(train)
    test_labels, test_images = _labels_and_digests(test)
    if shared := sorted(test_images.keys() & training_images.keys()):
        message = f"{test_images[shared[0]]} of the test split is {training_images[shared[0]]} of the training split"
        raise InputError(
            f"{run.experiment.path}: evaluation.probe.{name}: {message}; expected no image in both, found {len(shared)}"
        )
    keys, vectors = embed_set(train, model)
    try:
        probe = fit_with_best_penalty(vectors, labels, keys, len(train.classes))
    except ValueError as error:
        raise InputError(f"{run.experiment.path}: evaluation.probe.{name}.train: {error}") from None
    keys, vectors = embed_set(test, model)
    predictions = Predictions(keys, test_labels, probe.logits(vectors))
    return evaluation_rows(predictions, 1.0, evaluation_columns(job), test.chance, {}), {"penalty": probe.penalty}


def _labels_and_digests(evaluation: EvaluationSet) -> tuple[Any, dict[str, str]]:
    """Return the labels (n,) int32 of a set's images, and the key of each image by SHA-256."""
    labels, keys = list[int](), dict[str, str]()
    for image in evaluation.images():
        labels.append(image.label)
        keys[hashlib.sha256(image.data).hexdigest()] = image.key
    return np.array(labels, np.int32), keys


def retrieval_rows(run: Run, job: Job, model: Embedder) -> dict[str, pa.Table]:
    """Return the row of a set of captioned images; raise InputError where it has no image, or one does not decode."""
    name = job.config["retrieval"]
    captions = open_captions(name, Path(run.experiment.file.evaluation.retrieval[name]))
    texts, image_of = list[str](), list[int]()
    for number, image in enumerate(captions.images()):
        texts += image.captions
        image_of += [number] * len(image.captions)
    where = f"captioned images {name}"
    _, images = embed_image_files(((image.key, image.data) for image in captions.images()), where, model)
    recall = recall_at_depths(images, model.embed_texts(texts, 256), np.array(image_of))
    counts = {"images": len(images), "texts": len(texts), "evaluation_set": f"retrieval:{name}"}
    row = {key: job.local[key] for key in ("training", "mixture")} | counts | recall
    return {"retrievals": pa.Table.from_pylist([row], TABLES["retrievals"])}
