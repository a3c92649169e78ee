"""The report's page: hostile text stays text, counts that do not add up are flagged, same input same page."""

import base64
import copy
import functools
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import matplotlib as mpl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.ledger.schemas import TABLES
from pipeline.report import figures
from pipeline.report.funnel_section import key_figures
from pipeline.report.page import render_page
from tests.support.sample_report import SECTIONS, empty_report, grid_report, sample_report, thumbnail

SCRIPT = "</title></style></svg><script>alert(1)</script>"


BREAKOUT = "\"' onerror=alert(1) style=x><img src=https://evil.example/x><svg onload=alert(1)>-->]]>{{ 7*7 }}"


@functools.cache
def sample_page() -> str:
    """The sample report's page, drawn once."""
    return render_page(sample_report())


class Page(HTMLParser):
    """Every element of a page, its ids and the text of each caption."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.captions: list[str] = []
        self.text: list[str] = []
        self._within = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append((tag, attributes))
        if tag == "p" and attributes.get("class") == "caption":
            self._within = "caption"
            self.captions.append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag == "p":
            self._within = ""

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self._within:
            self.captions[-1] += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment got into the page: {data!r}")


def assert_harmless(html: str) -> Page:
    """No script, no handler, no inline style, nothing that leads out of the page."""
    page = Page(html)
    for tag, attributes in page.elements:
        assert tag not in ("script", "iframe", "object", "embed", "link", "base", "form", "foreignobject"), tag
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in ("style", "srcset", "action", "formaction", "srcdoc"), (tag, name)
            if name in ("src", "href", "xlink:href"):
                assert re.match(r"data:image/jpeg;base64,[A-Za-z0-9+/=]*$|#", value), (tag, value)
    assert sum(tag == "style" for tag, _ in page.elements) == 1
    return page


def small_report(caption: str = "a boat", reason: str = "kept", mixture: str = "all") -> Any:
    """One source, one pair, one mixture, two sets: enough for every kind of figure."""
    report: Any = copy.deepcopy(sample_report())
    report["funnel"] = [
        {
            "source": mixture,
            "published": 9,
            "stages": [{"stage": "ingest", "in": 9, "kept": 5, "dropped": {reason: 4}}],
        }
    ]
    report["examples"] = [report["examples"][0] | {"caption": caption, "reason": reason, "scores": {reason: caption}}]
    report["mixtures"] = [report["mixtures"][0] | {"name": mixture, "by_source": {mixture: 3600}}]
    report["calibration"] = [report["calibration"][0] | {"mixture": mixture}]
    report["classes"] = [report["classes"][0] | {"set": reason, "classes": [caption] * 14}]
    report["classes"][0]["mixtures"] = [report["classes"][0]["mixtures"][0] | {"mixture": mixture}]
    mistake = report["mistakes"][0]["examples"][1] | {"key": reason, "label": caption, "predicted": caption}
    report["mistakes"] = [report["mistakes"][0] | {"mixture": mixture, "examples": [mistake]}]
    evaluation = report["evaluation"]
    evaluation["sets"] = evaluation["sets"][:2]
    evaluation["results"] = [result | {"mixture": mixture} for result in evaluation["results"][:2]]
    report["robustness"] = [
        report["robustness"][0] | {"points": [report["robustness"][0]["points"][0] | {"mixture": mixture}]}
    ]
    return report


def poisoned(value: Any, text: str) -> Any:
    """The same JSON with `text` behind every string and free key, thumbnails excepted."""
    if isinstance(value, str):
        return value if value.startswith("data:") else value + text
    if isinstance(value, list):
        return [poisoned(each, text) for each in value]
    if isinstance(value, dict):
        free = ("dropped", "by_source", "scores", "versions", "tables", "rows", "values")
        return {
            key: {name + text: poisoned(each, text) for name, each in found.items()}
            if key in free and isinstance(found, dict)
            else poisoned(found, text)
            for key, found in value.items()
        }
    return value


def printable(text: str) -> str:
    """What the page promises to show of a text: everything but what HTML cannot carry."""
    unified = text.replace("\r\n", "\n").replace("\r", "\n")
    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", unified)


@settings(max_examples=8, deadline=None)
@given(caption=st.text(), reason=st.text(), mixture=st.text())
@example(caption=SCRIPT, reason=SCRIPT, mixture=SCRIPT)
@example(caption=BREAKOUT, reason=BREAKOUT, mixture=BREAKOUT)
@example(caption="\u202egnp.exe", reason=r"$\frac{", mixture=r"$\frac{$ _hidden")
@example(caption="\x00\ud800\uffff", reason="\x1b", mixture="\x0c--\x85\ud800")
def test_hostile_text_stays_text(caption: str, reason: str, mixture: str) -> None:
    html = render_page(small_report(caption, reason, mixture))
    html.encode("utf-8")
    page = assert_harmless(html)
    assert page.captions == [printable(caption)]


@pytest.mark.parametrize("text", [SCRIPT, BREAKOUT])
def test_no_value_of_the_report_is_trusted(text: str) -> None:
    page = assert_harmless(render_page(poisoned(sample_report(), text)))
    honest = assert_harmless(sample_page())
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in honest.elements}
    assert "".join(page.text).count(text) > 200


def test_script_in_a_figure_is_drawn_as_its_letters() -> None:
    bar = figures.Bar("<script>x</script>", "<b>", "<b>", 4, [("kept", 4)])
    svg = figures.plot_stacked_bars("bars", "a <title>", [bar], 900)
    assert "&lt;script&gt;x&lt;/script" in svg
    assert "<script" not in svg
    assert "<b>" not in svg


BAD_THUMBNAILS = (
    "",
    "https://evil.example/x.jpg",
    "data:image/svg+xml;base64,AAAA",
    "data:text/html;base64,AAAA",
    " data:image/jpeg;base64,AAAA",
    'data:image/jpeg;base64,AAAA" onerror="alert(1)',
)


@pytest.mark.parametrize(
    ("place", "bad"), [*(("thumbnail", bad) for bad in BAD_THUMBNAILS), ("resembles", BAD_THUMBNAILS[-1])]
)
def test_only_jpeg_data_urls_are_thumbnails(place: str, bad: str) -> None:
    report = small_report()
    report["examples"][0][place] = bad if place == "thumbnail" else {"what": "another", "thumbnail": bad}
    with pytest.raises(ValueError, match="expected data:image/jpeg;base64"):
        render_page(report)


def test_good_thumbnails_are_shown() -> None:
    report = small_report()
    report["examples"][0]["resembles"] = {"what": "evaluation image 17", "thumbnail": thumbnail(3)}
    html = render_page(report)
    assert thumbnail(3) in html
    assert "evaluation image 17" in html
    report["examples"][0]["resembles"] = {"what": "evaluation image 17", "thumbnail": None}
    without = render_page(report)
    assert without.count("<img") == html.count("<img") - 1
    assert "evaluation image 17" in without


def test_funnel_that_adds_up_is_said_to() -> None:
    html = sample_page()
    assert "Every published pair is accounted for at every stage" in html
    assert "do not add up" not in html
    assert "fault-row" not in html.partition("</style>")[2]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("kept", 4, "9 in, 4 kept + 4 dropped"),
        ("dropped", {"http_404": 1}, "9 in, 5 kept + 1 dropped"),
        ("in", 10, "10 in, 5 kept + 4 dropped"),
    ],
)
def test_funnel_that_does_not_add_up_is_flagged(key: str, value: Any, words: str) -> None:
    report = small_report()
    report["funnel"][0]["stages"][0][key] = value
    html = render_page(report)
    assert words in html
    assert "1 stage of the" in html
    assert "Every published pair" not in html
    assert 'class="fault-row"' in html


def test_published_rows_that_never_came_in_are_flagged() -> None:
    report = small_report()
    report["funnel"][0]["published"] = 12
    assert "12 published, 9 in" in render_page(report)


def test_failed_self_check_is_said_at_the_top() -> None:
    report = small_report()
    report["self_check"][0]["ok"] = False
    top, _, _ = render_page(report).partition('<section id="funnel">')
    assert "1 of 5" in top
    assert "differs from the expected result" in top


def test_empty_report_says_what_is_not_there_yet() -> None:
    page = assert_harmless(render_page(empty_report()))
    words = "".join(page.text)
    for sentence in (
        "There is no summary yet",
        "Nothing has been ingested yet",
        "No filter has decided on a pair yet",
        "No mixture has been blended yet",
        "No model has been evaluated yet",
        "There is nothing to compare yet",
        "nothing to check against",
        "No job has run yet",
        "No source has been read yet",
    ):
        assert sentence in words
    assert not [tag for tag, attributes in page.elements if tag == "svg" and "role" in attributes]


def test_report_without_trainings_shows_the_mixtures() -> None:
    report: Any = sample_report()
    report["evaluation"] = {"reference": "photo", "sets": [], "results": []}
    report["robustness"] = []
    report["mixtures"] = [mixture | {"training": None} for mixture in report["mixtures"]]
    html = render_page(report)
    assert html.count("not trained yet") == 5
    assert "No model has been evaluated yet" in html


def test_a_mixture_that_is_trained_by_sizes_says_so_and_each_seed_is_a_training() -> None:
    report: Any = sample_report()
    whole = report["mixtures"][0]
    sized = [whole | {"name": f"{whole['name']}@{size}"} for size in (300, 600)]
    report["mixtures"] = [whole | {"training": None}, *sized]
    report["cost"] = [{"mixture": whole["name"], "trainings": 6, "samples": 600, "seconds": 60.0}]
    html = render_page(report)
    assert (html.count("trained in several sizes, see below"), html.count("not trained yet")) == (1, 0)
    assert ("6", "trainings") in key_figures(report)


def test_source_without_stages_and_stage_without_pairs() -> None:
    report = small_report()
    nothing = {"stage": "ingest", "in": 0, "kept": 0, "dropped": {}}
    report["funnel"] += [
        {"source": "later", "published": 7, "stages": []},
        {"source": "void", "published": 0, "stages": [nothing]},
    ]
    html = render_page(report)
    assert "nothing has been ingested yet" in html
    assert "no input" in html


def test_same_report_same_bytes_whatever_the_user_set_in_matplotlib() -> None:
    first = sample_page()
    with mpl.rc_context({"font.size": 31, "svg.fonttype": "path", "axes.facecolor": "red", "svg.hashsalt": None}):
        assert render_page(sample_report()) == first
        assert mpl.rcParams["font.size"] == 31
    assert render_page(sample_report()) == first


def test_order_of_reasons_does_not_depend_on_the_order_of_the_keys() -> None:
    turned: Any = copy.deepcopy(sample_report())
    for source in turned["funnel"]:
        for stage in source["stages"]:
            stage["dropped"] = dict(reversed(stage["dropped"].items()))
    assert render_page(turned) == sample_page()


def test_ids_are_unique_and_every_reference_finds_its_own() -> None:
    page = Page(sample_page())
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(SECTIONS) <= set(ids)
    values = [value for _, attributes in page.elements for value in attributes.values()]
    wanted = [found for value in values for found in re.findall(r"^url\(#(.+)\)$|^#(.+)$", value)]
    assert len(wanted) > 50
    assert {one or other for one, other in wanted} <= set(ids)


def test_figures_are_text_in_the_colours_of_the_page() -> None:
    page = Page(sample_page())
    shown = [attributes for tag, attributes in page.elements if tag == "svg" and attributes.get("role") == "img"]
    assert len(shown) == 4 + 5 + 4 + 5
    assert all(attributes["aria-label"] for attributes in shown)
    colours = {attributes[key] for _, attributes in page.elements for key in ("fill", "stroke") if key in attributes}
    assert {colour for colour in colours if not colour.startswith("var(--")} == {"none"}
    assert sum(tag == "text" for tag, _ in page.elements) > 100
    assert not any(tag in ("metadata", "rdf:rdf") for tag, _ in page.elements)


def test_policy_allows_the_one_style_block_and_nothing_else() -> None:
    html = sample_page()
    style = html.partition("<style>")[2].partition("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policies = [a["content"] for _, a in Page(html).elements if a.get("http-equiv") == "Content-Security-Policy"]
    (policy,) = policies
    assert policy.split("; ")[:3] == ["default-src 'none'", f"style-src 'sha256-{digest}'", "img-src data:"]
    assert "url(" not in style
    assert "@import" not in style
    used = set(re.findall(r"var\((--[\w-]+)\)", html))
    assert used <= set(re.findall(r"(--[\w-]+):", style))


def test_best_of_each_set_is_marked_ties_included() -> None:
    report: Any = sample_report()
    assert sample_page().count('title="the best on this set"') == 5
    for result in report["evaluation"]["results"]:
        result["top1"] = 0.5
    assert render_page(report).count('title="the best on this set"') == 25


def test_accuracies_of_zero_and_one_are_drawn_inside_and_told_as_they_are() -> None:
    report = small_report()
    for result, top1 in zip(report["evaluation"]["results"], (1.0, 0.0), strict=True):
        result.update(top1=top1, correct=int(600 * top1), low=max(0.0, top1 - 0.006), high=min(1.0, top1 + 0.006))
    report["robustness"][0]["points"][0].update(reference=1.0, shift=0.0)
    html = render_page(report)
    assert "1 point at 0 or 100 % moved" in html
    assert "100.0 %" in html


def test_points_without_results_are_drawn_without_whiskers() -> None:
    report: Any = sample_report()
    report["evaluation"]["results"] = []
    html = render_page(report)
    assert "No model has been evaluated yet" in html
    assert 'aria-label="Accuracy on sketch against accuracy on the reference"' in html


def test_each_figure_names_the_tables_whose_rows_it_shows() -> None:
    page = render_page(grid_report())
    parts = dict(part.partition('">')[::2] for part in page.split('<section id="')[1:])
    tables = {name: set(re.findall(r"<code>([a-z_…]+)</code>", parts[name])) & {*TABLES} for name in parts}
    assert tables["funnel"] == {"fetches", "samples", "decisions"}
    assert tables["mixtures"] == {"mixtures", "exports", "trainings"}
    for name in ("accuracy", "robustness", "dilution", "contamination", "calibration", "classes", "mistakes"):
        assert "predictions" in tables[name], name
