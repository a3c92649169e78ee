"""The experiment file: frozen, checked when it is built, unknown keys refused with the choices.

What a source, a signal or a filter may be is the business of those floors; here their settings are plain mappings,
and `jobs.experiment` checks them against the registries. Paths are relative to the folder in which the command runs.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from yaml.error import MarkedYAMLError

from pipeline.errors import InputError, unknown

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(gt=0, le=1)]


class Section(BaseModel):
    """A part of the experiment file: frozen, and no key but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class Spark(Section):
    """Where the Spark jobs run. `memory` is the driver's (and, on one machine, everything's)."""

    master: str = "local[2]"
    memory: str = "2g"
    conf: dict[str, str] = {}


class Web(Section):
    """A small web of our own, published and served on loopback: the demo's drawn world, or real images in tars.

    Of the world: `pairs` rows for each source but for those that `sizes` names.
    """

    kind: Literal["world", "domains"]
    folder: str
    seed: int = 7
    pairs: Count = 600
    sizes: dict[str, Count] = {}
    evaluation_images: Count = 500
    tars: str = ""


class Source(Section):
    """A published source: its format, its files (globs), and what is known of its terms. `unknown` is said so."""

    format: str
    files: Annotated[tuple[str, ...], Field(min_length=1)]
    licence: str = "unknown"
    terms: str = "unknown"
    snapshot: str = "unknown"
    citation: str = ""


class Resize(Section):
    """img2dataset's resize modes; `size` in pixels; images are never enlarged."""

    mode: Literal["keep_ratio", "keep_ratio_largest", "center_crop", "border"] = "keep_ratio"
    size: Count = 256
    quality: Annotated[int, Field(ge=1, le=100)] = 95
    min_side: Annotated[int, Field(ge=1)] = 16


class Ingest(Section):
    """How pages are fetched. Times in seconds, sizes in bytes and pixels.

    `malformed_rows` is how many unreadable rows are tolerated in a source before nothing at all is written.
    """

    user_agent: str = "cuvee/0.1"
    timeout: Annotated[float, Field(gt=0)] = 20.0
    attempts: Count = 3
    back_off: Annotated[float, Field(ge=0)] = 0.5
    max_bytes: Count = 16 << 20
    max_pixels: Count = 100_000_000
    max_redirects: Annotated[int, Field(ge=0)] = 5
    concurrency: Count = 64
    refuse: tuple[str, ...] = ("noai", "noimageai", "noindex", "noimageindex")
    hosts: dict[str, str] = {}
    malformed_rows: Annotated[int, Field(ge=0)] = 0
    pairs_per_shard: Count = 10_000
    resize: Resize = Resize()


class Evaluation(Section):
    """Evaluation sets in CLIP_benchmark's layout, by name; `reference` is the one that shifts are measured from."""

    reference: str
    sets: Annotated[dict[Name, str], Field(min_length=1)]

    @model_validator(mode="after")
    def _reference_is_a_set(self) -> "Evaluation":
        if self.reference not in self.sets:
            raise ValueError(unknown("evaluation set", self.reference, self.sets))
        return self


class Trained(Section):
    """A model that the experiment trains itself, on one of its own mixtures."""

    mixture: str
    samples_seen: Count


class Model(Section):
    """A CLIP model: open_clip's name and tag, a folder in `local-dir:` form, or one that is trained first."""

    name: str = ""
    pretrained: str = ""
    folder: str = ""
    trained: Trained | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> "Model":
        if sum(map(bool, (self.name, self.folder, self.trained))) != 1:
            raise ValueError("expected exactly one of name (with pretrained), folder, trained")
        if bool(self.name) != bool(self.pretrained):
            raise ValueError("name and pretrained go together, as in ViT-B-32 and laion2b_s34b_b79k")
        return self


class Mixture(Section):
    """Shares by source of the pairs that a filter keeps. `total` is a number of pairs, or "all" there are.

    Without `shares`, every source gives what it has. When a source is short of its share, `shortage` says what
    happens: the job fails, all shrink in proportion, or pairs are repeated at most `repeat` times each.
    """

    filter: str = ""
    sources: tuple[str, ...] = ()
    shares: dict[str, Annotated[float, Field(gt=0)]] = {}
    total: Count | Literal["all"] = "all"
    shortage: Literal["fail", "shrink", "repeat"] = "fail"
    repeat: Count = 1

    @model_validator(mode="after")
    def _sources_once(self) -> "Mixture":
        if self.sources and self.shares:
            raise ValueError("expected sources or shares, found both")
        return self


class Export(Section):
    """`pairs_per_tar` pairs go into a tar; `train` needs at least as many tars as it has loader workers."""

    pairs_per_tar: Count = 10_000


class Training(Section):
    """One recipe for all mixtures: the same samples seen, the same everything. `flags` go to open_clip_train.

    `model` is a folder with `open_clip_config.json`; `parallel` trainings run at once with `threads` threads each.
    """

    model: str
    mixtures: Annotated[tuple[str, ...], Field(min_length=1)]
    samples_seen: Count
    batch_size: Count = 128
    lr: Annotated[float, Field(gt=0)] = 1e-3
    wd: Annotated[float, Field(ge=0)] = 0.1
    warmup: Annotated[int, Field(ge=0)] = 30
    precision: Literal["fp32", "amp", "amp_bf16", "bf16"] = "fp32"
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    parallel: Count = 1
    threads: Count = 2
    flags: dict[str, str | int | float | bool] = {}


class Report(Section):
    """What the report dwells on: the filter whose decisions the funnel and the examples show."""

    filter: str
    examples: Annotated[int, Field(ge=0, le=200)] = 24


class ExperimentFile(Section):
    """The whole file."""

    title: str
    question: str
    store: str
    seed: int = 0
    spark: Spark = Spark()
    web: Web | None = None
    sources: Annotated[dict[Name, Source], Field(min_length=1)]
    ingest: Ingest = Ingest()
    evaluation: Evaluation
    models: dict[Name, Model] = {}
    signals: Annotated[dict[Name, dict[str, Any] | None], Field(min_length=1)]
    filters: dict[Name, dict[str, Any]] = {}
    mixtures: Annotated[dict[Name, Mixture], Field(min_length=1)]
    export: Export = Export()
    training: Training
    report: Report


class _Loader(yaml.SafeLoader):
    """YAML as plain data; a key that stands twice in a mapping is an error, as the first would be lost."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node: Any = super().compose_mapping_node(anchor)
        seen = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise MarkedYAMLError(problem=f"found the key '{key.value}' twice", problem_mark=key.start_mark)
                seen.add(key.value)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as error:  # of values such as 2026-13-01 and !!bool x
            raise MarkedYAMLError(problem=f"unreadable value: {error}", problem_mark=node.start_mark) from None


def _plain(text: str) -> Any:
    """Return YAML as plain data; raise yaml.YAMLError and nothing else."""
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the file as plain data; raise InputError with the line where it is no YAML mapping."""
    try:
        data = _plain(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected an experiment file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "the file"
        problem = " ".join(str(getattr(error, "problem", error)).split())
        raise InputError(f"{path}: {where}: not YAML: {problem}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected a mapping of keys, found {type(data).__name__}")
    return data


def override(data: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """Return `data` with each "a.b=c" set; c is read as YAML. Lists are taken whole, not by index."""
    result = dict(data)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise InputError(f"--set {setting}: expected key.path=value")
        try:
            value = _plain(text)
        except yaml.YAMLError:
            raise InputError(f"--set {setting}: the value is not YAML") from None
        result = _with(result, key.split("."), value)
    return result


def _with(data: dict[str, Any], keys: list[str], value: Any) -> dict[str, Any]:
    head, *rest = keys
    if not rest:
        return {**data, head: value}
    inner = data.get(head)
    return {**data, head: _with(inner if isinstance(inner, dict) else {}, rest, value)}


def build(cls: type[Section], data: Any, where: str) -> Any:
    """Return `cls` built from plain data; raise InputError of one line, `where` leading to the faulty key."""
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        path = _keys(data, first["loc"], first["type"])
        if first["type"] == "extra_forbidden":
            known = _fields(cls, path[:-1])
            raise InputError(f"{where}: {'.'.join(path)}: {unknown('key', path[-1], known)}") from None
        message = first["msg"].removeprefix("Value error, ")
        found = "" if first["type"] in ("missing", "value_error") else f", found {first['input']!r}"
        raise InputError(f"{where}: {'.'.join(path) or 'top level'}: {message}{found}") from None


def _keys(data: Any, location: tuple[int | str, ...], kind: str) -> list[str]:
    """Return the keys of pydantic's location that are in the file: it also names `[key]` and branches of unions."""
    path = []
    for part in location:
        if isinstance(data, dict) and str(part) in (keys := {str(key): key for key in data}):
            data = data[keys[str(part)]]
        elif isinstance(data, list) and isinstance(part, int):
            data = data[part]
        elif kind != "missing":
            break
        path.append(repr(str(part))[1:-1])  # on one line
    return path


def _fields(cls: type[Section], path: list[str]) -> list[str]:
    """Return the keys that the section at `path` below `cls` may have."""
    current: Any = cls
    for part in path:
        field = getattr(current, "model_fields", {}).get(part)
        current = _section_in(field.annotation) if field else current
    return list(current.model_fields)


def _section_in(annotation: Any) -> Any:
    """Return the Section class that an annotation holds, however deep (dict of, optional, annotated)."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if (found := _section_in(inner)) is not None:
            return found
    return None
