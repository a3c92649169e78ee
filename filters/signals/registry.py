"""The signals by kind, sorted; each is imported when it is asked for. A signal's name is its kind and a version."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pyarrow as pa

from pipeline.errors import InputError, unknown_message


@dataclass(frozen=True)
class SignalKind:
    """A kind of signal: where its class is, whether it reads shards or tables, and the settings it takes.

    `required` names settings that must be there; `optional` gives the others with their defaults. Of these, `inputs`
    name other signals whose tables it reads, each of the kind that the setting is called by, `files` name files and
    `sets` folders in the layout of an evaluation set, whose digests are part of its job. With `evaluation`, it reads
    all evaluation sets. One that reads sets embeds their images by the model of the signal that its setting `clip`
    names.
    """

    target: str
    scope: str  # "shard" or "corpus"
    required: tuple[str, ...] = ()
    optional: tuple[tuple[str, Any], ...] = ()
    inputs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    evaluation: bool = False


SIGNAL_KINDS: dict[str, SignalKind] = {
    "caption": SignalKind("filters.signals.caption:CaptionSignal", "shard"),
    "clip": SignalKind(
        "filters.signals.clip:ClipSignal", "shard", ("model",), (("batch_size", 64), ("precision", "fp32"))
    ),
    "clusters": SignalKind(
        "filters.signals.clusters:ClustersSignal",
        "corpus",
        ("clip", "clusters"),
        (("iterations", 20), ("sample", 1_000_000), ("seed", 0)),
        inputs=("clip",),
    ),
    "concepts": SignalKind(
        "filters.signals.concepts:Concepts", "shard", ("file",), (("match", "words"),), files=("file",)
    ),
    "duplicates": SignalKind(
        "filters.signals.duplicates:DuplicatesSignal",
        "corpus",
        ("pdq",),
        (("distance", 31), ("min_quality", 50)),
        inputs=("pdq",),
    ),
    "hashes": SignalKind("filters.signals.fingerprints:HashesSignal", "shard"),
    "heads": SignalKind(
        "filters.signals.clip_heads:HeadsSignal",
        "corpus",
        ("clip", "file", "layout"),
        (("input", "image"), ("normalise", True), ("output", ["score"])),
        inputs=("clip",),
        files=("file",),
    ),
    "image": SignalKind("filters.signals.image:ImageSignal", "shard"),
    "nearest": SignalKind(
        "filters.signals.evaluation_overlap:EvaluationOverlapSignal",
        "corpus",
        ("pdq", "clip"),
        (("align", True), ("candidates", 4), ("min_recall", 0.95), ("index_mb", 4096)),
        inputs=("pdq", "clip"),
        evaluation=True,
    ),
    "pdq": SignalKind("filters.signals.fingerprints:PdqSignal", "shard"),
    "placeholders": SignalKind("filters.signals.placeholders:PlaceholdersSignal", "corpus", (), (("urls", 10),)),
    "published": SignalKind(
        "filters.signals.published:PublishedSignal", "corpus", (), (("numbers", []), ("texts", []))
    ),
    "reference": SignalKind(
        "filters.signals.near_reference:NearReferenceSignal",
        "corpus",
        ("clip", "clusters", "images"),
        inputs=("clip", "clusters"),
        sets=("images",),
    ),
    "repeats": SignalKind(
        "filters.signals.caption_frequency:CaptionFrequency", "corpus", ("caption",), inputs=("caption",)
    ),
    "semantic": SignalKind(
        "filters.signals.semantic_dedup:SemanticDedupSignal",
        "corpus",
        ("clip", "clusters", "cosine"),
        inputs=("clip", "clusters"),
    ),
}


@dataclass(frozen=True)
class SignalSpec:
    """A signal as the experiment file declares it, its settings complete."""

    name: str
    kind: str
    settings: dict[str, Any]

    @property
    def scope(self) -> str:
        """Whether it reads shards ("shard") or other tables ("corpus")."""
        return SIGNAL_KINDS[self.kind].scope

    def target(self) -> Any:
        """Return its class."""
        module, _, attribute = SIGNAL_KINDS[self.kind].target.partition(":")
        return getattr(import_module(module), attribute)

    def columns(self) -> pa.Schema:
        """Return its columns, which may follow from its settings; raise InputError where one of these is wrong."""
        columns: pa.Schema = self.target()(**self.settings).columns
        return columns

    def column_names(self) -> list[str]:
        """Return the names of its columns."""
        return list(self.columns().names)

    def inputs(self) -> dict[str, str]:
        """Return the signals that it reads: name by the kind that it must be of."""
        return {kind: str(name) for kind in SIGNAL_KINDS[self.kind].inputs if (name := self.settings[kind])}

    def files(self) -> list[str]:
        """Return the paths of the files that it reads."""
        return self._paths(SIGNAL_KINDS[self.kind].files)

    def sets(self) -> list[str]:
        """Return the folders, in the layout of evaluation sets, that it reads beside the experiment's own."""
        return self._paths(SIGNAL_KINDS[self.kind].sets)

    @property
    def evaluation(self) -> bool:
        """Whether it reads the experiment's evaluation sets."""
        return SIGNAL_KINDS[self.kind].evaluation

    def _paths(self, keys: Iterable[str]) -> list[str]:
        return [str(self.settings[key]) for key in keys if self.settings[key]]


def signal_spec(name: str, given: dict[str, Any] | None) -> SignalSpec:
    """Return the checked spec of a signal; raise InputError where its kind or a setting is unknown or missing."""
    settings = dict(given or {})
    kind_name = str(settings.pop("kind", re.sub(r"_v\d+$", "", name)))
    if not re.search(r"_v\d+$", name):
        raise InputError(f"signals.{name}: expected a name that ends in its version, such as {name}_v1")
    if kind_name not in SIGNAL_KINDS:
        raise InputError(f"signals.{name}: {unknown_message('kind of signal', kind_name, SIGNAL_KINDS)}")
    kind = SIGNAL_KINDS[kind_name]
    known_keys = [*kind.required, *(key for key, _ in kind.optional)]
    for key in settings:
        if key not in known_keys:
            raise InputError(f"signals.{name}.{key}: {unknown_message('setting', key, [*known_keys, 'kind'])}")
    for key in kind.required:
        if key not in settings:
            raise InputError(f"signals.{name}: expected the setting '{key}', found none")
    spec = SignalSpec(name, kind_name, dict(kind.optional) | settings)
    try:
        spec.columns()
    except InputError as error:
        raise InputError(f"signals.{name}.{error}") from None
    return spec
