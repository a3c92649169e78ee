"""Which code is in a job's id: what computes its rows, and nothing else; the real code, changed as people change it."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from filters.rules.base import DropWhen, RandomFraction, Rule
from filters.rules.composite import AllOf
from filters.rules.corpus import Balanced, TopFraction
from jobs.workflow import stages
from pipeline.core import code_version
from pipeline.core.code_version import code_digest, data_digest, reached_modules

Change = Callable[[str, Callable[[str], str]], None]


def forget(*modules: str) -> None:
    """Have modules read anew; all of them where none is named."""
    for name in modules or list(code_version._modules):
        code_version._modules.pop(name, None)
    code_version._reached.cache_clear()
    if not modules:
        code_version._file.cache_clear()


@pytest.fixture
def change(monkeypatch: pytest.MonkeyPatch) -> Iterator[Change]:
    """Change a module's source, as the digests see it, until the test ends."""
    real, texts = code_version._source, dict[str, bytes]()

    def source(name: str) -> bytes:
        return texts[name] if name in texts else real(name)

    def changed(module: str, edit: Callable[[str], str]) -> None:
        before = source(module).decode()
        after = edit(before)
        assert after != before, f"nothing changed in {module}"
        texts[module] = after.encode()
        forget(module)

    monkeypatch.setattr(code_version, "_source", source)
    yield changed
    monkeypatch.undo()
    if texts:
        forget(*texts)


def appended(text: str) -> Callable[[str], str]:
    return lambda source: f"{source}\n\n{text}\n"


def said_anew(source: str) -> str:
    return re.sub(r'"""([A-Z])', r'"""Said anew. \1', source) + '\n"""And at the end."""\n'


def replaced(old: str, new: str) -> Callable[[str], str]:
    def edit(source: str) -> str:
        assert old in source
        return source.replace(old, new)

    return edit


def moved_by(change: Change, module: str, edit: Callable[[str], str]) -> set[str]:
    """Return the kinds of jobs whose code a change is in."""
    before = stages.digests()
    change(module, edit)
    after = stages.digests()
    return {name for name in before if before[name] != after[name]}


def test_the_modules_behind_every_kind_of_job_are_those_of_the_lock() -> None:
    locked = json.loads(stages.CODE_LOCK_PATH.read_text("utf-8"))
    assert stages.reached_modules_by_kind() == locked, "run `make code-lock` and look at what changed in jobs/code.lock"


@pytest.fixture(scope="module")
def every() -> list[str]:
    """All modules that are in the id of any job."""
    return sorted({module for modules in stages.reached_modules_by_kind().values() for module in modules})


def test_a_comment_and_a_docstring_in_any_module_change_no_id(change: Change, every: list[str]) -> None:
    before = stages.digests()
    assert len(every) > 50
    for module in every:
        change(module, appended("# a comment\n"))
        change(module, said_anew)
    assert stages.digests() == before


def test_a_new_function_an_import_and_an_annotation_in_any_module_change_no_id(
    change: Change, every: list[str]
) -> None:
    before = stages.digests()
    assert len(every) > 50
    for module in every:
        change(module, appended("import sys\n\n\ndef never_called(x: int) -> int:\n    return x + len(sys.argv)\n"))
    change("pipeline.images.pdq", replaced("def hamming(", "def hamming(  # counted\n    "))
    assert stages.digests() == before


ADDED = {
    "a preset": ("filters.rules.presets", "def _mine(roles, signals):\n    return {}\n"),
    "a kind of signal": ("filters.signals.registry", 'SIGNAL_KINDS["mine"] = SignalKind("filters.mine:Mine", "shard")'),
    "a source format": ("sources.registry", 'FORMATS["mine"] = "sources.mine:Mine"'),
    "a stage's place": ("jobs.workflow.plan", "EXTRA = 1"),
    "progress": ("jobs.workflow.progress", "class Display:\n    pass"),
    "the runner": ("jobs.workflow.runner", "def execute():\n    pass"),
    "Spark's session": ("jobs.spark.session", "def start():\n    pass"),
    "monitoring": ("pipeline.operations.prometheus", "class Monitor:\n    pass"),
    "a column of a table": (
        "pipeline.ledger.schemas",
        'TABLES["pairs"] = TABLES["pairs"].append(pa.field("more", pa.string()))',
    ),
}


@pytest.mark.parametrize("what", ADDED)
def test_what_computes_no_rows_is_in_no_id(change: Change, what: str) -> None:
    module, text = ADDED[what]
    assert moved_by(change, module, appended(text)) == set()


def test_a_new_corruption_is_in_no_id_but_its_own(change: Change) -> None:
    edit = replaced(
        "CORRUPTION_KINDS: dict",
        'MINE = CorruptionKind(_fog, _single_values(1), _single_values(1))\n"""Mine."""\nCORRUPTION_KINDS: dict',
    )
    assert moved_by(change, "pipeline.evaluation.corruptions", edit) == set()
    assert (
        moved_by(
            change, "pipeline.evaluation.corruptions", replaced('    "fog": FOG,', '    "fog": FOG,\n    "mine": MINE,')
        )
        == set()
    )


def test_a_new_section_of_the_report_changes_the_report_alone(change: Change) -> None:
    edit = replaced('        "cost": _cost(run),', '        "cost": _cost(run),\n        "more": _cost(run),')
    assert moved_by(change, "jobs.report.stage", edit) == {"report"}


CHANGED = {
    "a signal over shards": (
        "filters.signals.image",
        ("MAX_GREY_SPREAD_LEVELS = 8", "MAX_GREY_SPREAD_LEVELS = 9"),
        {"signal image"},
    ),
    "a signal over the corpus": ("filters.signals.placeholders", ("count(", "count_if("), {"signal placeholders"}),
    "how a caption is normalised": (
        "filters.signals.caption_text",
        ("html.unescape(html.unescape(text))", "html.unescape(text)"),
        {"signal caption", "signal concepts"},
    ),
    "a corruption's parameter": (
        "pipeline.evaluation.corruptions",
        ("_single_values(0.4, 0.6, 0.7, 0.8, 1)", "_single_values(0.4)"),
        {"corruption gaussian_blur"},
    ),
    "a source's reader": ("sources.wit", ("caption", "captions"), {"source wit"}),
    "the order of a mixture": ("pipeline.core.sampling", ("sha2(concat(", "sha1(concat("), {"blend"}),
    "what a library gives": ("pipeline.images.pdq", ("RESULT_VERSION = 1", "RESULT_VERSION = 2"), None),
    "how a published row is written": ("pipeline.records", ("default=str", "default=repr"), {"ingest"}),
    "a recipe's argument": ("pipeline.training.recipe", ('"workers": 1', '"workers": 2'), {"train"}),
    "a metric": (
        "pipeline.evaluation.metrics",
        ("def all_metrics(", "def all_metrics(more=1, *"),
        {"zero_shot", "probe"},
    ),
}


@pytest.mark.parametrize("what", CHANGED)
def test_a_change_of_what_computes_rows_is_in_the_ids_of_these_jobs_alone(change: Change, what: str) -> None:
    module, (old, new), expected = CHANGED[what]
    if expected is None:
        expected = {name for name, modules in stages.reached_modules_by_kind().items() if module in modules}
        assert {"ingest", "signal pdq", "signal nearest"} <= expected
    assert moved_by(change, module, replaced(old, new)) == expected


def drops(rule: Rule) -> str:
    return stages.code_of((), stages.rule_roots(rule))


def test_a_filter_stands_on_its_own_rules_alone(change: Change) -> None:
    top = TopFraction("top", 0.3, ("clip_v1", "similarity"))
    words = DropWhen("words", {"short": "caption_v1.words < 2"})
    drawn, both = RandomFraction("drawn", 0.5, 1), AllOf("both", (top, words))
    balanced = Balanced("balanced", "concepts_v1", 20, 1)
    rules = {"top": top, "words": words, "drawn": drawn, "both": both, "balanced": balanced}
    before = {name: drops(rule) for name, rule in rules.items()}
    assert len(set(before.values())) == len(rules)
    change("filters.rules.sql", replaced("'below_top_fraction'", "'below_the_top'"))
    assert {name for name, rule in rules.items() if drops(rule) != before[name]} == {"top", "both"}
    change("filters.rules.statistics", replaced("minlength=1 << RADIX_BITS", "minlength=2 << RADIX_BITS"))
    assert {name for name, rule in rules.items() if drops(rule) != before[name]} == {"top", "both"}
    change("filters.rules.statistics", replaced("total > rule.t", "total >= rule.t"))
    assert {name for name, rule in rules.items() if drops(rule) != before[name]} == {"top", "both", "balanced"}


WRITTEN = {
    "filters/top.py": "from filters import middle as m\n\n\ndef run(y):\n    x = m.go(y)\n    return [x, 1]\n",
    "filters/middle.py": "import os\nfrom filters.bottom import N\n\n\ndef go(y):\n    return N + os.getpid()\n",
    "filters/bottom.py": "from filters import top\n\nN = 1\nM = 2\n",
    "filters/kinds.py": (
        "from functools import singledispatch\n\n\nclass A:\n    pass\n\n\nclass B:\n    pass\n\n\n@singledispatch\n"
        "def f(x):\n    return 0\n\n\n@f.register\ndef _(x: A):\n    return 1\n\n\n@f.register\n"
        "def _(x: B):\n    return 2\n"
    ),
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Small packages in the place of Cuvée's: write files, and get the digest of roots."""

    def digest(roots: str, stops: tuple[str, ...] = (), **files: str) -> str:
        for name, text in files.items():
            path = tmp_path / "filters" / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        forget()
        return code_digest(roots.split(), stops)

    for name, text in WRITTEN.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(code_version.resources, "files", lambda package: tmp_path / package)
    yield digest
    monkeypatch.undo()
    forget()


def test_a_definition_is_followed_through_modules_and_circles(small: Callable[..., str]) -> None:
    before = small("filters.top:run")
    assert reached_modules(["filters.top:run"], ()) == ["filters.bottom", "filters.middle", "filters.top"]
    assert small("filters.top:run", bottom="from filters import top\n\nM = 3\nN = 1\n") == before
    assert small("filters.top:run", bottom="from filters import top\n\nN = 2\n") != before
    assert small("filters.top:run", ("filters.bottom",)) == small(
        "filters.top:run", ("filters.bottom",), bottom="N = 5\n"
    )


def test_where_a_definition_lies_and_how_it_is_imported_is_not_in_the_digest(small: Callable[..., str]) -> None:
    before = small("filters.top:run")
    moved = "from filters.deep import go\n\n\ndef run(y):\n    x = go(y)\n    return [x, 1]\n"
    deep = "import os as system\nfrom filters import bottom\n\n\ndef go(y):\n    return bottom.N + system.getpid()\n"
    assert small("filters.top:run", top=moved, deep=deep, middle="") == before
    assert small("filters.top:run", deep=deep.replace("import os as", "import sys as")) != before


def test_names_of_a_function_and_of_a_comprehension_are_its_own(small: Callable[..., str]) -> None:
    f, g = "def f(N):\n    return N\n", "def g():\n    return [N for N in range(3)]\n"
    text = f + g + "def h():\n    return [N for M in [N]]\n\nN = 1\n"
    before = [small(f"filters.own:{name}", own=text) for name in "fgh"]
    after = [small(f"filters.own:{name}", own=text.replace("N = 1", "N = 2")) for name in "fgh"]
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, True, False]


def test_a_registered_function_is_reached_with_its_class(small: Callable[..., str]) -> None:
    both, only = "filters.kinds:f filters.kinds:A filters.kinds:B", "filters.kinds:f filters.kinds:A"
    before = small(only), small(both)
    text = WRITTEN["filters/kinds.py"].replace("return 2", "return 3")
    assert small(only, kinds=text) == before[0]
    assert small(both) != before[1]


def test_what_a_module_does_on_import_and_its_result_version_count(small: Callable[..., str]) -> None:
    acts = "import os\n\nos.environ['A'] = '1'\nRESULT_VERSION = 1\n\n\ndef f():\n    return 1\n"
    before = small("filters.acts:f", acts=acts)
    assert small("filters.acts:f", acts=acts.replace("'1'", "'2'")) != before
    assert small("filters.acts:f", acts=acts.replace("VERSION = 1", "VERSION = 2")) != before
    assert small("filters.acts:f", acts="# said\n" + acts.replace("import os", "import os\nimport sys")) == before


@pytest.mark.parametrize("root", ["filters.none:f", "filters.top:none", "filters.top", "elsewhere:f"])
def test_a_root_that_is_nothing_is_an_error(small: Callable[..., str], root: str) -> None:
    with pytest.raises(ModuleNotFoundError, match=root.partition(":")[0]):
        small(root)


def test_data_digest_follows_names_and_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tmp_path / "some_package_of_files" / "data"
    files.mkdir(parents=True)
    (files.parent / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    found = set[str]()
    for name, text in (("a", "one"), ("a", "two"), ("b", "two")):
        (files / name).write_text(text)
        data_digest.cache_clear()
        found.add(data_digest("some_package_of_files", "data"))
    assert len(found) == 3
