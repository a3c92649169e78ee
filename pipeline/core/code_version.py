"""The code that a job's rows depend on, and a digest of it that changes with what is computed and with nothing else.

A job's code is found from its roots, the functions and classes that compute its rows: they, and every definition of
Cuvée's that they use, directly or through others. Each is taken by its syntax tree, without docstrings, comments,
positions and the annotations of functions, and a name that leads to another definition stands for that definition,
wherever it lies. So a comment, a longer list of imports, a function beside it, or a module that moves changes no id; a
change in any definition that is reached changes the ids of the jobs that reach it.

Modules and definitions that only say when and where work is done (`stops`: the plan, the ledger, Spark's session,
progress) end the search. What a library computes is not read: where its results are part of a contract, the module
that calls it has a `RESULT_VERSION`, which counts as soon as any of the module's definitions is reached.

A definition is a function, a class or an assignment at the top level of a module. A function that is registered with a
`functools.singledispatch` function is reached where that function and the class it is registered for are. What is found
by a string at run time (a registry's entries) is not seen: whoever plans the job names it as a root.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from importlib.util import find_spec
from typing import Any

from pipeline.core.digests import digest, stream_sha256

ROOT_PACKAGES = ("pipeline", "sources", "filters", "jobs")


RESULT_VERSION_NAME = "RESULT_VERSION"


_OWN_NAMES = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Lambda)
"""What has names of its own within a function."""


Reference = tuple[str, str]
"""(module, name) of a definition; the name is "" for the module itself."""


@dataclass(frozen=True)
class _Registration:
    """A function that a module registers with a dispatcher: its place among them, and for which class, as written."""

    name: str
    dispatcher: str
    kinds: tuple[str, ...]
    node: ast.stmt


_DefinitionText = tuple[str, frozenset[Reference]]
"""A definition as text, and what it refers to."""


@dataclass
class _Module:
    """A module's top level: its definitions, what its imported names stand for, and statements that only act."""

    name: str
    definitions: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imports: dict[str, Reference] = field(default_factory=dict)
    effects: list[ast.stmt] = field(default_factory=list)
    registrations: list[_Registration] = field(default_factory=list)
    texts: dict[str, "_DefinitionText"] = field(default_factory=dict)  # of what was read of it, by name


@cache
def _file(name: str) -> Traversable | None:
    """Return the file of one of Cuvée's modules, in a folder or in a zip, None where `name` is no module.

    Nothing but the top package is imported for that.
    """
    package, *parts = name.split(".")
    if package not in ROOT_PACKAGES:
        return None
    folder = resources.files(package)
    places = [folder.joinpath(*parts, "__init__.py")]
    if parts:
        places.append(folder.joinpath(*parts[:-1], f"{parts[-1]}.py"))
    return next((place for place in places if place.is_file()), None)


def _is_module(name: str) -> bool:
    return _file(name) is not None


def _source(name: str) -> bytes:
    """Return a module's source; raise ModuleNotFoundError where there is none."""
    file = _file(name)
    if file is None:
        raise ModuleNotFoundError(f"no module {name}")
    return file.read_bytes()


_modules: dict[str, _Module] = {}


def _module(name: str) -> _Module:
    """Return a module of Cuvée's, read once; raise ModuleNotFoundError where there is none."""
    if name not in _modules:
        module = _Module(name)
        _collect(ast.parse(_source(name)).body, module)
        _modules[name] = module
    return _modules[name]


def _collect(body: Iterable[ast.stmt], module: _Module, whole: ast.stmt | None = None) -> None:
    """Sort the statements of a top level; of those in an `if` or `try` the definition is the `whole` of it."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            module.imports.update(_bindings(node))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (dispatch := _dispatcher_and_classes(node)):
            number = len(module.registrations)
            module.registrations.append(_Registration(f"{dispatch[0]}[{number}]", *dispatch, whole or node))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            module.definitions.setdefault(node.name, []).append(whole or node)
        elif names := _assigned_names(node):
            for name in names:
                module.definitions.setdefault(name, []).append(whole or node)
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'"):
            _collect([inner for inner in node.body if isinstance(inner, ast.Import | ast.ImportFrom)], module)
        elif isinstance(node, ast.If | ast.Try):
            parts = [*node.body, *node.orelse, *(getattr(node, "finalbody", []))]
            parts += [inner for handler in getattr(node, "handlers", []) for inner in handler.body]
            _collect(parts, module, whole or node)
        elif not _is_docstring(node):
            module.effects.append(whole or node)


def _is_docstring(node: ast.AST) -> bool:
    """Tell whether a statement is a docstring, of whatever it stands under."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _assigned_names(node: ast.stmt) -> list[str]:
    """Return the plain names that a statement assigns to; none where it assigns to an attribute or an item."""
    targets = node.targets if isinstance(node, ast.Assign) else []
    if isinstance(node, ast.AnnAssign | ast.AugAssign):
        targets = [node.target]
    if any(isinstance(inner, ast.Attribute | ast.Subscript) for target in targets for inner in ast.walk(target)):
        return []
    return [inner.id for target in targets for inner in ast.walk(target) if isinstance(inner, ast.Name)]


def _bindings(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, Reference]]:
    """Yield each name that an import binds, and what it stands for: another's is a module "!<dotted name>"."""
    for alias in node.names:
        if isinstance(node, ast.Import):
            name, target = (alias.asname, alias.name) if alias.asname else (alias.name.split(".")[0],) * 2
        else:
            name, target = alias.asname or alias.name, f"{node.module}.{alias.name}"
        if target.split(".")[0] not in ROOT_PACKAGES:
            yield name, (f"!{target}", "")
        elif isinstance(node, ast.Import) or _is_module(target):
            yield name, (target, "")
        else:
            yield name, (str(node.module), alias.name)


def _dispatcher_and_classes(node: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[str, tuple[str, ...]] | None:
    """Return the dispatcher with which a function is registered, and for which classes; None where with none."""
    for decorator in node.decorator_list:
        call = decorator.func if isinstance(decorator, ast.Call) else decorator
        if isinstance(call, ast.Attribute) and call.attr == "register" and isinstance(call.value, ast.Name):
            kinds = decorator.args[0] if isinstance(decorator, ast.Call) else node.args.args[0].annotation
            names = [inner.id for inner in ast.walk(kinds) if isinstance(inner, ast.Name)] if kinds else []
            return call.value.id, tuple(names)
    return None


class _Reader:
    """Writes a definition's tree as text, and gathers what it refers to."""

    def __init__(self, module: _Module) -> None:
        self._module = module
        self._scopes: list[tuple[frozenset[str], Mapping[str, Reference]]] = []
        self.references: set[Reference] = set()

    def text(self, node: Any, in_class: bool = False) -> str:
        """Return a node as text; what is left out of it is left out of every digest."""
        if isinstance(node, list):
            return ",".join(self.text(part, in_class) for part in node if not _is_docstring(part))
        if not isinstance(node, ast.AST):
            return repr(node)
        if isinstance(node, ast.Name | ast.Attribute) and (target := self._resolve(node)):
            if target[0].startswith("!"):
                return target[0]
            self.references.add(target)
            return f"@{target[1] or target[0].rpartition('.')[2]}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            return ""  # what it binds is written where it is used
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return self._function(node)
        if isinstance(node, ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp):
            targets = [inner for part in node.generators for inner in ast.walk(part.target)]
            self._scopes.append((frozenset(inner.id for inner in targets if isinstance(inner, ast.Name)), {}))
            text = self._fields(node)
            self._scopes.pop()
            return text
        if isinstance(node, ast.ClassDef):
            bases = self.text([*node.bases, *node.keywords, *node.decorator_list])
            return f"ClassDef({node.name};{bases};{self.text(node.body, in_class=True)})"
        if isinstance(node, ast.AnnAssign):
            # a field's annotation has an effect, a variable's has none
            kind = self.text(_parse_annotation(node.annotation))
            return f"AnnAssign({self.text(node.target)};{kind if in_class else ''};{self.text(node.value)})"
        return self._fields(node)

    def _fields(self, node: ast.AST) -> str:
        parts = []
        for name, value in ast.iter_fields(node):
            if name not in ("ctx", "kind", "type_comment") and value is not None and value != []:
                parts.append(f"{name}={self.text(value)}")
        return f"{type(node).__name__}({';'.join(parts)})"

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> str:
        """Return a function as text; its annotations are followed and not written."""
        signature = node.args
        plain, named = [*signature.posonlyargs, *signature.args], signature.kwonlyargs
        groups: Sequence[Sequence[ast.arg | None]] = [
            signature.posonlyargs,
            plain,
            [signature.vararg],
            named,
            [signature.kwarg],
        ]
        arguments = [[argument for argument in group if argument] for group in groups]
        annotations = [argument.annotation for group in arguments for argument in group]
        for annotation in [*annotations, getattr(node, "returns", None)]:
            if annotation is not None:
                self.text(_parse_annotation(annotation))
        head = "|".join(",".join(argument.arg for argument in group) for group in arguments)
        outside = self.text([*signature.defaults, *signature.kw_defaults, *getattr(node, "decorator_list", [])])
        self._scopes.append(_scope(node))
        inside = self.text(node.body)
        self._scopes.pop()
        return f"{type(node).__name__}({getattr(node, 'name', '')};{head};{outside};{inside})"

    def _resolve(self, node: ast.Name | ast.Attribute) -> Reference | None:
        """Return Cuvée's definition, or another package's import, that an expression names; None where neither."""
        if isinstance(node, ast.Name):
            return self.resolve_name(node.id)
        if not isinstance(node.value, ast.Name | ast.Attribute):
            return None
        owner = self._resolve(node.value)
        if owner is None or owner[1] or owner[0].startswith("!"):
            return None
        inner = f"{owner[0]}.{node.attr}"
        return (inner, "") if _is_module(inner) else (owner[0], node.attr)

    def resolve_name(self, name: str) -> Reference | None:
        """Return what a name stands for where it is read, None where for nothing that is imported or defined above."""
        for names, imports in reversed(self._scopes):
            if name in imports:
                return imports[name]
            if name in names:
                return None
        if name in self._module.definitions:
            return self._module.name, name
        return self._module.imports.get(name)


def _parse_annotation(annotation: ast.expr) -> ast.expr:
    """Return an annotation, parsed where it is written as a string."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return ast.parse(annotation.value, mode="eval").body
    return annotation


def _scope(function: Any) -> tuple[frozenset[str], dict[str, Reference]]:
    """Return the names that are a function's own, and what those that it imports itself stand for."""
    arguments = function.args
    all_arguments = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    names = {argument.arg for argument in all_arguments if argument}
    imports: dict[str, Reference] = {}
    outer: set[str] = set()
    todo = list(function.body) if isinstance(function.body, list) else [function.body]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports.update(_bindings(node))
        elif isinstance(node, ast.Global | ast.Nonlocal):
            outer.update(node.names)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            names.add(node.name)
        if isinstance(node, _OWN_NAMES):  # but for what a walrus in it assigns to
            todo.extend(inner for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr))
        else:
            todo.extend(ast.iter_child_nodes(node))
    return frozenset(names - outer), imports


def _read(name: str, definition: str) -> _DefinitionText:
    """Return a definition of a module as text, and what it refers to; "" is what the module does when imported."""
    module = _module(name)
    if definition not in module.texts:
        reader = _Reader(module)
        nodes = module.definitions[definition] if definition else module.effects
        text = "\n".join(reader.text(node) for node in nodes)
        module.texts[definition] = text, frozenset(reader.references)
    return module.texts[definition]


def _registrations(name: str) -> Iterator[tuple[_Registration, _DefinitionText, frozenset[Reference]]]:
    """Yield a module's registrations, each as text and references, and its dispatcher and classes."""
    module = _module(name)
    for registration in module.registrations:
        if registration.name not in module.texts:
            reader = _Reader(module)
            text = f"{registration.kinds}:{reader.text(registration.node)}"
            module.texts[registration.name] = text, frozenset(reader.references)
        reader = _Reader(module)
        required = [reader.resolve_name(kind) for kind in (registration.dispatcher, *registration.kinds)]
        yield registration, module.texts[registration.name], frozenset(reference for reference in required if reference)


def _definition_of(reference: Reference) -> Reference | None:
    """Return where a name is defined, through modules that only import it; None where it is a whole module."""
    module, name = reference
    while name:
        current = _module(module)
        if name in current.definitions:
            return module, name
        if name not in current.imports:
            raise ModuleNotFoundError(f"{module} has no {name}")
        module, name = current.imports[name]
        if module.startswith("!"):
            return None
    return None


def _is_stop(reference: Reference, stops: frozenset[str]) -> bool:
    """Tell whether a search ends at a definition: `stops` name modules, packages, and definitions as module:name."""
    module, name = reference
    parts = module.split(".")
    return f"{module}:{name}" in stops or any(".".join(parts[:end]) in stops for end in range(1, len(parts) + 1))


@cache
def _reached(roots: tuple[str, ...], stops: frozenset[str]) -> Mapping[Reference, str]:
    """Return every definition that the roots reach, as text; one named "" is what its module does when imported.

    Raises ModuleNotFoundError where a root is nothing.
    """
    reached: dict[Reference, str] = {}
    todo: list[Reference] = []
    for root in roots:
        module, _, name = root.partition(":")
        target = _definition_of((module, name))
        if target is None:
            raise ModuleNotFoundError(f"{root}: expected module:name")
        todo.append(target)
    while True:
        while todo:
            module, name = reference = todo.pop()
            if reference in reached:
                continue
            if name:
                todo += [
                    (module, ""),
                    *([(module, RESULT_VERSION_NAME)] if RESULT_VERSION_NAME in _module(module).definitions else []),
                ]
            reached[reference], references = _read(module, name)
            for other in references:
                target = None if _is_stop(other, stops) else _definition_of(other)
                if target is not None and not _is_stop(target, stops):
                    todo.append(target)
        for module in sorted({module for module, _ in reached}):
            for registration, (text, references), wanted in _registrations(module):
                key = (module, registration.name)
                if key not in reached and all(_definition_of(one) in reached for one in wanted):
                    reached[key] = text
                    targets = [_definition_of(one) for one in references if not _is_stop(one, stops)]
                    todo += [one for one in targets if one is not None and not _is_stop(one, stops)]
        if not todo:
            return reached


def reached_modules(roots: Iterable[str], stops: Iterable[str]) -> list[str]:
    """Return the names of the modules that hold a definition which these roots (module:name) reach, sorted."""
    reached = _reached(tuple(sorted(roots)), frozenset(stops))
    return sorted({module for module, name in reached if name})


def code_digest(roots: Iterable[str], stops: Iterable[str]) -> str:
    """Return SHA-256 over the definitions that these roots (module:name) reach, wherever they lie.

    The same in a folder and in a zip. Raises ModuleNotFoundError where a root is nothing.
    """
    reached = _reached(tuple(sorted(roots)), frozenset(stops))
    return digest(sorted({hashlib.sha256(text.encode()).hexdigest() for text in reached.values() if text}))


@cache
def data_digest(package: str, folder: str) -> str:
    """Return SHA-256 over the names and bytes of a folder of files in a package, in a folder and in a zip the same."""
    files = (file for file in resources.files(package).joinpath(folder).iterdir() if file.is_file())
    return digest({file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files})


@cache
def archive_digest() -> str:
    """Return the SHA-256 of the zip from which Cuvée runs, "" where it runs from a folder."""
    spec = find_spec(__name__)
    archive = getattr(spec.loader, "archive", None) if spec else None
    if archive is None:
        return ""
    with open(archive, "rb") as stream:
        return stream_sha256(stream)[0]
