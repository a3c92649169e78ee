"""Reads an experiment file: YAML as plain data, then `--set`, then frozen sections; each error is one line."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from yaml.error import MarkedYAMLError

from pipeline.config.base import ConfigSection
from pipeline.errors import InputError, unknown_message


class _Loader(yaml.SafeLoader):
    """YAML as plain data; a key that a mapping has twice is an error, as the first value would be lost."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        node: Any = super().compose_mapping_node(anchor)
        keys = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in keys:
                    raise MarkedYAMLError(problem=f"found the key '{key.value}' twice", problem_mark=key.start_mark)
                keys.add(key.value)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError) as error:  # values such as 2026-13-01 and !!bool x
            raise MarkedYAMLError(problem=f"unreadable value: {error}", problem_mark=node.start_mark) from None


def _parse(text: str) -> Any:
    """Return YAML as plain data; raise no other error than yaml.YAMLError."""
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the file as plain data; raise InputError with the line where it is not a YAML mapping."""
    try:
        data = _parse(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected an experiment file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        position = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "the file"
        problem = " ".join(str(getattr(error, "problem", error)).split())
        raise InputError(f"{path}: {position}: not YAML: {problem}") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: expected a mapping of keys, found {type(data).__name__}")
    return data


def override(data: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """Return `data` with each setting "a.b=c" applied; c is parsed as YAML. A list is replaced whole, not by index."""
    result = dict(data)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise InputError(f"--set {setting}: expected key.path=value")
        try:
            value = _parse(text)
        except yaml.YAMLError:
            raise InputError(f"--set {setting}: the value is not YAML") from None
        result = _with_value(result, key.split("."), value)
    return result


def _with_value(data: dict[str, Any], keys: list[str], value: Any) -> dict[str, Any]:
    """Return `data` with `value` at the path `keys`."""
    head, *tail = keys
    if not tail:
        return {**data, head: value}
    inner = data.get(head)
    return {**data, head: _with_value(inner if isinstance(inner, dict) else {}, tail, value)}


def build_section(cls: type[ConfigSection], data: Any, where: str) -> Any:
    """Return a `cls` built from plain data; raise InputError of one line: `where`, the key, and what is wrong."""
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        errors = [(details, _keys(data, details["loc"], details["type"])) for details in error.errors()]
        first_path = errors[0][1]
        # of the branches of a union, the one that matched deepest into the file is the one that was meant
        branches = (branch for branch in errors if branch[1][: len(first_path)] == first_path)
        details, path = max(branches, key=lambda branch: len(branch[1]))
        if details["type"] == "extra_forbidden":
            known = _fields(cls, path[:-1])
            raise InputError(f"{where}: {'.'.join(path)}: {unknown_message('key', path[-1], known)}") from None
        message = details["msg"].removeprefix("Value error, ")
        found = "" if details["type"] in ("missing", "value_error") else f", found {details['input']!r}"
        raise InputError(f"{where}: {'.'.join(path) or 'top level'}: {message}{found}") from None


def _keys(data: Any, location: tuple[int | str, ...], kind: str) -> list[str]:
    """Return the keys of an error's location that are in the file; pydantic also names `[key]` and union branches."""
    path = []
    for part in location:
        if isinstance(data, dict) and str(part) in (by_text := {str(key): key for key in data}):
            data = data[by_text[str(part)]]
        elif isinstance(data, list) and isinstance(part, int):
            data = data[part]
        elif kind != "missing":
            continue
        path.append(repr(str(part))[1:-1])  # on one line
    return path


def _fields(cls: type[ConfigSection], path: list[str]) -> list[str]:
    """Return the valid keys of the section at `path` below `cls`."""
    current: Any = cls
    for part in path:
        field = getattr(current, "model_fields", {}).get(part)
        current = _section_class(field.annotation) if field else current
    return list(current.model_fields)


def _section_class(annotation: Any) -> Any:
    """Return the Section class in an annotation, however nested (dict, optional, annotated), or None."""
    if isinstance(annotation, type) and issubclass(annotation, ConfigSection):
        return annotation
    for inner in getattr(annotation, "__args__", ()):
        if (cls := _section_class(inner)) is not None:
            return cls
    return None
