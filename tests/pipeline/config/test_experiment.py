"""The experiment file: what is read, what `--set` changes, and that each refusal is one line with file and key."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.config.experiment import ExperimentFile, SparkConfig
from pipeline.config.loader import build_section, override, read_yaml
from pipeline.errors import InputError
from tests.support.road_experiment import ROOT

DEMO = ROOT / "experiments/demo.yaml"


DATA: dict[str, Any] = yaml.safe_load(DEMO.read_text("utf-8"))


Write = Callable[[str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write an experiment file of this text and return its path."""

    def run(text: str | bytes) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return run


def refused(call: Callable[[], Any], *words: str) -> str:
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert len(message.splitlines()) == 1, message
    for word in words:
        assert word in message
    return message


def built(*changes: str) -> ExperimentFile:
    file: ExperimentFile = build_section(ExperimentFile, override(DATA, list(changes)), "mine.yaml")
    return file


@pytest.mark.parametrize("name", ["demo", "domains"])
def test_the_experiments_that_we_ship_are_read(name: str) -> None:
    path = ROOT / f"experiments/{name}.yaml"
    data = read_yaml(path)
    assert data == yaml.safe_load(path.read_text("utf-8"))
    file: ExperimentFile = build_section(ExperimentFile, data, str(path))
    assert list(file.sources) == list(data["sources"])
    assert file.evaluation.reference == "photo"
    assert file.training.lr == data["training"]["lr"]
    assert file.web is not None
    assert file.web.kind == data["web"]["kind"]


def test_what_the_file_leaves_out_has_its_default() -> None:
    file = built("spark={}", "export={}", "web=null", "ingest={}")
    assert file.spark == SparkConfig()
    assert (file.export.pairs_per_tar, file.ingest.pairs_per_shard, file.web) == (10_000, 10_000, None)
    assert file.mixtures["all_unfiltered"].total == "all"
    assert file.ingest.refuse == ("noai", "noimageai", "noindex", "noimageindex", "noml")


def test_what_was_built_cannot_be_changed() -> None:
    file = built()
    with pytest.raises(ValidationError, match="frozen"):
        file.seed = 3
    with pytest.raises(ValidationError, match="frozen"):
        file.ingest.resize.size = 3


def test_a_setting_goes_to_the_key_that_it_names_and_leaves_the_rest() -> None:
    changes = ["seed=3", "ingest.resize.size=64", "title=a=b", "training.seeds=[1, 2]", "store='x.y=z'"]
    before = yaml.safe_dump(DATA)
    found = override(DATA, changes)
    assert yaml.safe_dump(DATA) == before
    assert (found["seed"], found["title"], found["training"]["seeds"], found["store"]) == (3, "a=b", [1, 2], "x.y=z")
    assert found["ingest"] == {**DATA["ingest"], "resize": {**DATA["ingest"]["resize"], "size": 64}}
    untouched = DATA.keys() - {"seed", "title", "training", "store", "ingest"}
    assert {key: found[key] for key in untouched} == {key: DATA[key] for key in untouched}


def test_a_setting_makes_the_sections_that_it_needs_and_the_last_one_wins() -> None:
    assert override({}, ["a.b.c=1", "a.b.d=x", "a.b.c=2"]) == {"a": {"b": {"c": 2, "d": "x"}}}
    assert override({"a": None, "b": 3}, ["a.x=null", "b.y=[]"]) == {"a": {"x": None}, "b": {"y": []}}
    assert override({"a": 1}, []) == {"a": 1}
    assert override({}, ["a="]) == {"a": None}


KEYS = st.lists(st.from_regex(r"[a-z_]{1,4}", fullmatch=True), min_size=1, max_size=4)


@given(keys=KEYS, value=st.integers() | st.booleans() | st.none() | st.lists(st.integers()) | st.text("ab", min_size=1))
def test_what_is_set_is_what_is_found(keys: list[str], value: Any) -> None:
    text = yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
    found: Any = override({}, [f"{'.'.join(keys)}={text}"])
    for key in keys:
        found = found[key]
    assert found == value


@pytest.mark.parametrize("setting", ["ingest", "", "=3", "a.b"])
def test_a_setting_without_key_or_value_is_refused(setting: str) -> None:
    refused(lambda: override(DATA, [setting]), f"--set {setting}: ", "key.path=value")


@pytest.mark.parametrize(
    "value", ["[a", "{a: 1", "'x", "a: b: c", "2026-13-01", "!!int x", "!!python/name:os.system", "{a: 1, a: 2}", "\0"]
)
def test_a_setting_that_is_no_yaml_is_refused(value: str) -> None:
    refused(lambda: override(DATA, [f"seed={value}"]), "--set seed=", "not YAML")


UNKNOWN = [
    ("ingest.timeouts=3", "ingest.timeouts: unknown key 'timeouts' (did you mean 'timeout'?)"),
    ("sauces={}", "sauces: unknown key 'sauces' (did you mean 'sources'?)"),
    ("ingest.resize.sise=3", "ingest.resize.sise: unknown key 'sise' (did you mean 'size'?)"),
    ("sources.yfcc.license=x", "sources.yfcc.license: unknown key 'license' (did you mean 'licence'?)"),
    ("models.scorer.trained.mixtur=x", "models.scorer.trained.mixtur: unknown key 'mixtur' (did you mean 'mixture'?)"),
    ("web.pair=3", "web.pair: unknown key 'pair' (did you mean 'pairs'?)"),
    ("mixtures.yfcc_only.shortag=fail", "mixtures.yfcc_only.shortag: unknown key 'shortag' (did you mean 'shortage'?)"),
    ("evaluation.reference=phto", "unknown evaluation set 'phto' (did you mean 'photo'?)"),
    ("3=4", "3: unknown key '3': expected one of evaluation, export"),
]


@pytest.mark.parametrize(("setting", "words"), UNKNOWN)
def test_an_unknown_key_is_refused_with_the_one_that_was_meant(setting: str, words: str) -> None:
    assert refused(lambda: built(setting), words).startswith("mine.yaml: ")


WRONG = [
    ("title=3", "title", "3"),
    ("title=2026-11-01", "title", repr(date(2026, 11, 1))),
    ("title.x=3", "title", "{'x': 3}"),
    ("spark=3", "spark", "3"),
    ("spark.conf={a: 4}", "spark.conf.a", "4"),
    ("sources={}", "sources", "{}"),
    ("sources=[yfcc]", "sources", "['yfcc']"),
    ("sources.yfcc.files=x.tsv", "sources.yfcc.files", "'x.tsv'"),
    ("sources.yfcc.files=[]", "sources.yfcc.files", "[]"),
    ("sources.yfcc.files=[a, 3]", "sources.yfcc.files.1", "3"),
    ("sources.Bad-Name={format: x, files: [a]}", "sources.Bad-Name", "'Bad-Name'"),
    ("sources={3: {format: x, files: [a]}}", "sources.3", "3"),
    ("signals=null", "signals", "None"),
    ("signals.caption_v1=[a]", "signals.caption_v1", "['a']"),
    ("web.kind=word", "web.kind", "'word'"),
    ("mixtures.yfcc_only.total=some", "mixtures.yfcc_only.total", "'some'"),
    ("mixtures.yfcc_only.shortage=stretch", "mixtures.yfcc_only.shortage", "'stretch'"),
    ("training.flags={warm: [1]}", "training.flags.warm", "[1]"),
    ("training.seeds=[a]", "training.seeds.0", "'a'"),
    ("ingest.attempts=2.5", "ingest.attempts", "2.5"),
]


OUT = ["web.pairs=0", "web.sizes.yfcc=0", "ingest.resize.quality=0", "ingest.resize.quality=101", "ingest.timeout=0"]


OUT += ["ingest.back_off=-0.1", "ingest.max_redirects=-1", "ingest.malformed_rows=-1", "export.pairs_per_tar=0"]


OUT += ["training.lr=0", "training.wd=-1", "training.samples_seen=-5", "report.examples=201", "report.examples=-1"]


OUT += ["mixtures.yfcc_only.total=0", "mixtures.yfcc_only.total=-3", "mixtures.yfcc_only.repeat=0"]


OUT += ["mixtures.yfcc_wit_half.shares.yfcc=0", "mixtures.yfcc_wit_half.shares.yfcc=-1"]


ENDLESS = ["ingest.timeout=.inf", "ingest.back_off=.nan", "training.lr=.nan", "training.wd=.inf"]


ENDLESS += ["mixtures.yfcc_wit_half.shares.yfcc=.inf", "mixtures.yfcc_wit_half.shares.wit=.nan"]


@pytest.mark.parametrize(("setting", "key", "found"), WRONG)
def test_a_value_of_the_wrong_kind_is_refused_by_its_key(setting: str, key: str, found: str) -> None:
    message = refused(lambda: built(setting))
    assert message.startswith(f"mine.yaml: {key}: ")
    assert message.endswith(f", found {found}")


@pytest.mark.parametrize("setting", OUT + ENDLESS)
def test_a_number_out_of_its_range_is_refused_by_its_key(setting: str) -> None:
    key, _, value = setting.partition("=")
    message = refused(lambda: built(setting))
    assert message.startswith(f"mine.yaml: {key}: Input should be ")
    assert message.endswith(f", found {value.removeprefix('.')}")


@pytest.mark.parametrize(
    "key", ["title", "store", "sources", "evaluation", "signals", "mixtures", "training", "report"]
)
def test_a_key_that_is_needed_and_missing_is_named(key: str) -> None:
    data = {name: value for name, value in DATA.items() if name != key}
    assert refused(lambda: build_section(ExperimentFile, data, "f")) == f"f: {key}: Field required"


def test_a_key_that_is_missing_deep_inside_is_named() -> None:
    refused(lambda: built("sources.yfcc={files: [a]}"), "mine.yaml: sources.yfcc.format: Field required")
    refused(lambda: built("training={}"), "mine.yaml: training.model: Field required")


ORIGINS = ["{}", "{name: ViT-B-32}", "{pretrained: x}", "{folder: x, name: a, pretrained: b}"]


@pytest.mark.parametrize("model", ORIGINS)
def test_a_model_has_exactly_one_origin(model: str) -> None:
    refused(lambda: built(f"models.scorer={model}"), "mine.yaml: models.scorer: ")
    assert built("models.scorer={name: ViT-B-32, pretrained: x}").models["scorer"].trained is None


def test_of_two_kinds_of_shares_the_error_is_about_the_one_that_was_given() -> None:
    message = refused(lambda: built("mixtures.yfcc_wit_half.shares=[1, -1]"))
    assert message == "mine.yaml: mixtures.yfcc_wit_half.shares.1: Input should be greater than 0, found -1"
    message = refused(lambda: built("mixtures.yfcc_wit_half.shares={yfcc: -1}"))
    assert message == "mine.yaml: mixtures.yfcc_wit_half.shares.yfcc: Input should be greater than 0, found -1"


def test_a_mixture_has_sources_or_shares() -> None:
    message = refused(lambda: built("mixtures.yfcc_only={sources: [yfcc], shares: {wit: 1}}"))
    assert message == "mine.yaml: mixtures.yfcc_only: expected sources or shares, found both"


@pytest.mark.parametrize("key", ["a\nb", "\x1b[31mred", "a\r\nb"])
def test_a_hostile_key_stays_on_its_line(key: str) -> None:
    message = refused(lambda: build_section(ExperimentFile, {**DATA, "ingest": {key: 1}}, "f"))
    assert message.isprintable()


@pytest.mark.parametrize(
    ("text", "kind"),
    [("", "NoneType"), ("# nothing", "NoneType"), ("- a\n", "list"), ("just words", "str"), ("3", "int")],
)
def test_a_file_that_is_no_mapping_is_refused(write: Write, text: str, kind: str) -> None:
    path = write(text)
    assert refused(lambda: read_yaml(path)) == f"{path}: expected a mapping of keys, found {kind}"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3, column 1"),
        ("a:\n  x: 1\n  x: 1\n", "line 3, column 3"),
        ("a: {x: 1, 'x': 2}\n", "line 1, column 11"),
        ("a: [\n", "line 2, column 1"),
        ("a: b: c\n", "line 1, column 5"),
        ("\ta: 1\n", "line 1, column 1"),
        ("a: *b\n", "line 1, column 4"),
        ("a: 1\n---\nb: 2\n", "line 2, column 1"),
        ("[x]: 1\n", "line 1, column 1"),
        ("? {a: 1}\n: 2\n", "line 1, column 3"),
        ("a: 1\nb: 2026-13-01\n", "line 2, column 4"),
        ("a: !!int many\n", "line 1, column 4"),
        ("a: !!float x\n", "line 1, column 4"),
        ("a: !!bool perhaps\n", "line 1, column 4"),
        ("a: !!timestamp x\n", "line 1, column 4"),
        ("a: " + "1" * 5000, "line 1, column 4"),
        ("a: !!python/object/apply:os.system ['touch hacked']\n", "line 1, column 4"),
        ("a: !!python/object/new:os.system [ls]\n", "line 1, column 4"),
        ("a: !!python/name:os.system\n", "line 1, column 4"),
        ("a: !!python/module:os\n", "line 1, column 4"),
        ("a: !mine x\n", "line 1, column 4"),
        ("a: \0\n", "the file"),
        ("[" * 5000, "the file"),
        ("{a: " * 5000, "the file"),
    ],
)
def test_what_is_no_plain_yaml_is_refused_at_its_place(write: Write, text: str, place: str) -> None:
    path = write(text)
    assert refused(lambda: read_yaml(path)).startswith(f"{path}: {place}: not YAML: ")


def test_anchors_and_merged_keys_are_plain_yaml(write: Write) -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nc: {<<: *b, x: 4}\nd: [*a, *a]\n"
    one = {"x": 1, "y": 2}
    assert read_yaml(write(text)) == {"a": one, "b": {"x": 1, "y": 3}, "c": {"x": 4, "y": 3}, "d": [one, one]}


def test_a_file_that_cannot_be_read_is_named(write: Write, tmp_path: Path) -> None:
    refused(lambda: read_yaml(tmp_path / "none.yaml"), f"{tmp_path}/none.yaml: no such file")
    refused(lambda: read_yaml(tmp_path), f"{tmp_path}: cannot be read")
    path = write(b"a: \xff\xfe")
    refused(lambda: read_yaml(path), f"{path}: cannot be read")


@settings(deadline=None)
@given(st.text() | st.lists(st.sampled_from([*"{}[]:,-&*!?|>'\"% \n\t#ab1", "<<", "!!", "2026-"])).map("".join))
@example("a: !!null {}")
@example("a: !!set {b, b}")
@example("a: 0x_")
@example("a: 1:_")
def test_any_text_is_a_mapping_or_one_line(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_bytes(text.encode("utf-8", "replace"))
    try:
        assert isinstance(read_yaml(path), dict)
    except InputError as error:
        assert str(error).startswith(str(path))
        assert len(str(error).splitlines()) == 1
