"""The signals by kind, sorted; each is imported when it is asked for. A signal's name is its kind and a version."""

import re
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pyarrow as pa

from pipeline.errors import InputError, unknown


@dataclass(frozen=True)
class Kind:
    """A kind of signal: where its class is, whether it reads shards or tables, and the settings it takes.

    `required` names settings that must be there; `optional` gives the others with their defaults.
    """

    target: str
    scope: str  # "shard" or "corpus"
    required: tuple[str, ...] = ()
    optional: tuple[tuple[str, Any], ...] = ()


KINDS: dict[str, Kind] = {
    "caption": Kind("filters.caption:CaptionSignal", "shard"),
    "clip": Kind("filters.clip:ClipSignal", "shard", ("model",), (("batch_size", 64),)),
    "duplicates": Kind("filters.duplicates:Duplicates", "corpus", ("pdq",), (("distance", 31), ("min_quality", 50))),
    "image": Kind("filters.image:ImageSignal", "shard"),
    "nearest": Kind("filters.nearest:Nearest", "corpus", ("pdq", "clip")),
    "pdq": Kind("filters.fingerprint:PdqSignal", "shard"),
    "placeholders": Kind("filters.placeholders:Placeholders", "corpus", (), (("urls", 10),)),
    "published": Kind("filters.published:Published", "corpus", (), (("numbers", []), ("texts", []))),
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
        return KINDS[self.kind].scope

    @property
    def module(self) -> str:
        """The module of its code, for the job's id."""
        return KINDS[self.kind].target.partition(":")[0]

    def target(self) -> Any:
        """Return its class."""
        module, _, attribute = KINDS[self.kind].target.partition(":")
        return getattr(import_module(module), attribute)

    def columns(self) -> pa.Schema:
        """Return its columns; of a kind that looks at the whole corpus, they may follow from its settings."""
        target = self.target()
        return (target(**self.settings) if self.scope == "corpus" else target).columns

    def column_names(self) -> list[str]:
        """Return the names of its columns."""
        return list(self.columns().names)

    def inputs(self) -> list[str]:
        """Return the names of the signals that it reads (a corpus signal names them in its settings)."""
        return [self.settings[key] for key in KINDS[self.kind].required if self.scope == "corpus"]


def signal_spec(name: str, given: dict[str, Any] | None) -> SignalSpec:
    """Return the checked spec of a signal; raise InputError where its kind or a setting is unknown or missing."""
    settings = dict(given or {})
    kind_name = str(settings.pop("kind", re.sub(r"_v\d+$", "", name)))
    if not re.search(r"_v\d+$", name):
        raise InputError(f"signals.{name}: expected a name that ends in its version, such as {name}_v1")
    if kind_name not in KINDS:
        raise InputError(f"signals.{name}: {unknown('kind of signal', kind_name, KINDS)}")
    kind = KINDS[kind_name]
    known = [*kind.required, *(key for key, _ in kind.optional)]
    for key in settings:
        if key not in known:
            raise InputError(f"signals.{name}.{key}: {unknown('setting', key, [*known, 'kind'])}")
    for key in kind.required:
        if key not in settings:
            raise InputError(f"signals.{name}: expected the setting '{key}', found none")
    spec = SignalSpec(name, kind_name, dict(kind.optional) | settings)
    try:
        spec.columns()
    except InputError as error:
        raise InputError(f"signals.{name}.{error}") from None
    return spec
