"""What sites say of themselves, in headers and in robots.txt: any text is read, and only a clear no is a refusal."""

import asyncio
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict
from protego import Protego

from pipeline.fetch import robots
from pipeline.fetch.opt_out import OptOutRules, content_usage_refusal, product_token, robots_tag_refusal, tdm_refusal
from pipeline.fetch.robots import RobotsCache, RobotsRules, matching_group, robots_from_response
from pipeline.outcomes import STORED, Attempt

REFUSE = frozenset({"noai", "noimageai", "noml"})


USES = ("train-ai", "ai", "bots", "all")


HEADERS = st.lists(
    st.one_of(
        st.text(),
        st.lists(
            st.sampled_from(
                ["noai", "none", "cuvee:", "otherbot:", "*:", ",", " ", "train-ai=n", "bots=y", ";", "=", "1"]
            )
        ).map("".join),
    ),
    max_size=4,
)


@given(HEADERS)
def test_any_text_is_read_and_what_refuses_is_kept_word_for_word(values: list[str]) -> None:
    assert robots_tag_refusal(values, "cuvee/0.1", REFUSE) in ("", *values)
    assert tdm_refusal(values) in ("", *values)
    assert content_usage_refusal(values, USES) in ("", ", ".join(values))
    assert robots_tag_refusal(values, "cuvee/0.1", frozenset()) == content_usage_refusal(values, ()) == ""
    headers = CIMultiDict((name, value) for name in ("X-Robots-Tag", "Content-Usage") for value in values)
    said = OptOutRules("cuvee/0.1", REFUSE, True, USES).refused(headers)
    assert said == "" or said.partition(": ")[2] in (*values, ", ".join(values))


@given(st.lists(st.sampled_from(["index", "nofollow", "noarchive", "max-snippet: 5", "otherbot: noai"])), st.booleans())
def test_a_no_is_found_wherever_it_stands_unless_it_is_said_to_another(others: list[str], upper: bool) -> None:
    plain = [one for one in others if "bot" not in one]
    said = ", ".join([*plain, "NOAI" if upper else "noai", *plain])
    assert robots_tag_refusal([said], "cuvee/0.1", REFUSE) == said
    assert robots_tag_refusal([*others, "cuvee: noai"], "Cuvee/2", REFUSE) == "cuvee: noai"
    assert robots_tag_refusal([f"otherbot: {said}"], "cuvee/0.1", REFUSE) == ""


@pytest.mark.parametrize(
    ("value", "refused"),
    [
        ("train-ai=n", True),
        ("TRAIN-AI=N", True),
        ("train-ai=n;x=1", True),
        ("train-ai=y", False),
        ("bots=n", True),
        ("bots=n, train-ai=y", False),
        ("bots=y, train-ai=n", True),
        ("all=n, bots=y", False),
        ("train-ai=y, train-ai=n", True),
        ("train-ai=n, train-ai=y", False),
        ("train-ai", False),
        ("train-ai=?0", False),
        ('train-ai="n"', False),
        ("search=n", False),
        ("train-ai=, =n,,;", False),
    ],
)
def test_the_most_specific_use_that_is_stated_decides(value: str, refused: bool) -> None:
    assert content_usage_refusal([value], USES) == (value if refused else "")
    assert content_usage_refusal(value.split(", "), USES) == (value if refused else "")


@pytest.mark.parametrize(
    ("value", "refused"), [("1", True), (" 1 ", True), ("0", False), ("true", False), ("1.0", False)]
)
def test_only_a_one_reserves_text_and_data_mining(value: str, refused: bool) -> None:
    assert bool(tdm_refusal([value])) is refused
    headers = CIMultiDict({"TDM-Reservation": value})
    assert OptOutRules("c", frozenset(), True).refused(headers) == (f"tdm-reservation: {value}" if refused else "")
    assert OptOutRules("c", frozenset(), False).refused(headers) == ""


def read(text: str | bytes, outcome: str = STORED) -> RobotsRules:
    body = text.encode() if isinstance(text, str) else text
    return robots_from_response(Attempt(outcome, 200, body=body), "Cuvee/0.1 (+https://cuvee.test)", 0.0)


@settings(deadline=None)
@given(st.one_of(st.binary(), st.text().map(str.encode), st.text().map(lambda text: f"User-agent:*\n{text}".encode())))
def test_any_robots_txt_is_read(body: bytes) -> None:
    for outcome in (STORED, "body_too_large"):
        found = read(body, outcome)
        assert found.failed is None
        assert 0 <= found.interval < float("inf")
        assert isinstance(found.refusal("http://h/a?b#c", "cuvee"), str)


NAMES = st.sampled_from(["*", "cuvee", "Cuvee", "cuv", "otherbot", "googlebot", "cuvees", ""])


RULES = st.tuples(st.sampled_from(["Allow", "Disallow"]), st.sampled_from(["/", "/a", "/a/*.jpg$", "/b", "", "/a/b"]))


LINES = st.one_of(
    NAMES.map(lambda name: f"User-agent: {name}"),
    NAMES.map(lambda name: f"  user-agent :{name} # why"),
    RULES.map(": ".join),
    st.sampled_from(["", "# note", "Sitemap: http://h/s.xml", "Crawl-delay: 2", "nonsense", "Host: h"]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(LINES, max_size=14))
def test_the_group_that_is_ours_says_what_the_whole_says(lines: list[str]) -> None:
    text = "\n".join(lines)
    whole, found = Protego.parse(text), read(text)
    for path in ("/", "/a", "/a/c.jpg", "/b", "/a/b"):
        assert (found.refusal(f"http://h{path}", "cuvee/0.1") == "") is whole.can_fetch(f"http://h{path}", "cuvee")
    assert found.interval == (whole.crawl_delay("cuvee") or 0.0)


def test_many_agents_times_many_rules_stay_small() -> None:
    agents = "".join(f"User-agent: a{n}\n" for n in range(14_000))
    text = agents + "User-agent: *\n" + "".join(f"Allow: /{n:x}\n" for n in range(16_000))
    started = time.process_time()
    tracemalloc.start()
    try:
        found = read(text)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.refusal("http://h/x", "cuvee") == ""
    assert peak < 64 << 20
    assert time.process_time() - started < 5
    assert matching_group(agents + "Disallow: /", "cuvee") == ""


def test_a_robots_txt_that_is_cut_loses_its_last_line_and_a_mark_at_its_start_is_no_text() -> None:
    text = "User-agent: *\nDisallow: /\nAllow: /"
    assert read(text).refusal("http://h/a", "cuvee") == ""
    assert read(text, "body_too_large").refusal("http://h/a", "cuvee") == "robots.txt: disallowed for cuvee"
    assert read(b"\xef\xbb\xbf" + b"User-agent: *\nDisallow: /").refusal("http://h/a", "cuvee")
    assert product_token("Cuvee/0.1 (x)") == "cuvee"


def test_a_wait_of_any_length_is_a_number() -> None:
    assert read("User-agent: *\nRequest-rate: 1/" + "9" * 400).interval == 10**9
    assert read("User-agent: *\nRequest-rate: 2/1m\nCrawl-delay: 5").interval == 30.0
    for delay in ("inf", "nan", "-1", "x", "1e999"):
        assert read(f"User-agent: *\nCrawl-delay: {delay}").interval == 0.0


def test_a_book_asks_again_for_what_is_old_or_failed_and_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robots, "MAX_CACHE_CHARS", 10_000)
    asked: list[str] = []

    async def ask(origin: str) -> RobotsRules:
        asked.append(origin)
        await asyncio.sleep(0)
        if origin == "breaks" and asked.count(origin) == 1:
            raise RuntimeError
        return RobotsRules(until=0.0 if origin == "old" else float("inf"), chars=500 if origin == "long" else 0)

    async def run() -> None:
        book = RobotsCache(ask)
        for origin in ("old", "kept"):
            await asyncio.gather(*(book.of(origin) for _ in range(5)))
        assert asked == ["old", "kept"]
        await book.of("old")
        await book.of("kept")
        assert asked == ["old", "kept", "old"]
        with pytest.raises(RuntimeError):
            await book.of("breaks")
        assert (await book.of("breaks")).rules is None
        for n in range(100):
            await asyncio.gather(book.of(f"h{n}"), book.of("kept"))
        assert len(book._tasks) <= 11
        assert asked.count("kept") == 1  # it was needed all the time
        assert book._chars == sum(1000 + task.result().chars for task in book._tasks.values())
        waiting = asyncio.create_task(book.of("late"))
        await asyncio.sleep(0)
        await book.close()
        assert (await asyncio.gather(waiting, return_exceptions=True))[0] is not None

    asyncio.run(run())
