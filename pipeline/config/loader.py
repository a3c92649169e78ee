"""Reads an experiment file: YAML as plain data, `--set` on top, built into frozen sections; errors are one line."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from yaml.error import MarkedYAMLError

from pipeline.config.base import Section
from pipeline.errors import InputError, unknown


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
        errors = [(one, _keys(data, one["loc"], one["type"])) for one in error.errors()]
        top = errors[0][1]
        # of the branches of a union, the one that went furthest into the file is the one that was meant
        first, path = max((one for one in errors if one[1][: len(top)] == top), key=lambda one: len(one[1]))
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
            continue
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
