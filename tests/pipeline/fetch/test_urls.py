"""What a URL's host is, in Python and in Spark, and how long a site asks us to wait."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import SparkSession
from yarl import URL

from pipeline.fetch.rate_limit import parse_retry_after as retry_after_of
from pipeline.fetch.urls import host_of, host_sql

LABEL = st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,10}[a-zA-Z0-9])?", fullmatch=True)


HOSTS = st.one_of(st.lists(LABEL, min_size=1, max_size=4).map(".".join), st.ip_addresses(v=6).map(lambda ip: f"[{ip}]"))


URLS = st.builds(
    "{}://{}{}{}{}".format,
    st.sampled_from(["http", "HTTPS", "https"]),
    st.sampled_from(["", "", "user@", "user:pass@"]),
    HOSTS,
    st.sampled_from(["", ":80", ":8080"]),
    st.sampled_from(["", "/", "/a.jpg", "/a:b@c/d", "?q=http://x/", "#f", "/a?b@c"]),
)


@given(URLS)
def test_a_host_is_what_other_parsers_take_for_it(url: str) -> None:
    assert host_of(url).strip("[]") == urlsplit(url).hostname
    host = URL(url).raw_host
    if host is not None and ":" not in host:
        assert host_of(url) == host == host_of(str(URL(url)))


@given(st.text())
def test_any_text_has_a_host_or_none(text: str) -> None:
    for url in (text, f"http://{text}"):
        assert host_of(url) == host_of(host_of(url) and f"http://{host_of(url)}")
        assert not set("/?#") & set(host_of(url)) or host_of(url).startswith("[")


def test_the_dot_that_ends_a_name_makes_no_other_host() -> None:
    assert host_of("http://A.test./x") == host_of("https://u@a.test.:8/") == "a.test"


def test_spark_finds_the_same_host(spark: SparkSession) -> None:
    odd = [
        "",
        "a",
        "http:///x",
        "http://",
        "//h/a",
        "http://h.../a",
        "http://[::1]:8/a",
        "http://a@b@H/",
        "x://É.Test/",
    ]
    odd += [
        "http://h\\@e/",
        "http://h\n/x",
        "http://x'y/",
        'http://x"y/',
        "http://\U0001f600.TEST./",
        "1http://h/",
        "ΑΣ://Σ",
    ]
    found: list[str] = []

    @settings(max_examples=300, database=None, deadline=None)
    @given(st.one_of(URLS, st.text(alphabet=st.characters(codec="utf-8")).map(lambda text: f"http://{text}")))
    def collect(url: str) -> None:
        found.append(url)

    collect()
    rows = [(url,) for url in odd + found]
    answers = spark.createDataFrame(rows, "url string").selectExpr("url", f"{host_sql('url')} as host").collect()
    assert [(row["url"], row["host"]) for row in answers] == [(url, host_of(url)) for (url,) in rows]


@given(st.text())
def test_any_retry_after_is_seconds_or_none(value: str) -> None:
    seconds = retry_after_of(value)
    assert seconds is None or seconds >= 0


def test_retry_after_reads_seconds_and_dates_and_nothing_else() -> None:
    assert retry_after_of(None) is retry_after_of("") is None
    assert [retry_after_of(text) for text in ("0", " 120 ", "9" * 400)] == [0.0, 120.0, 999999999.0]
    for text in ("-5", "1.5", "soon", "1e3", "٣", "Wed, 99 Foo 2020 00:00:00 GMT", "Wed, 01 Jan 99999 00:00:00 GMT"):
        assert retry_after_of(text) is None
    assert retry_after_of("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert retry_after_of(later) == pytest.approx(100, abs=2)
