"""What a rule's parts must know of all pairs, measured on a view of a test's own; and Spark's settings for few rows."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa
from pyspark.sql import SparkSession

from filters.rules.base import Rule
from filters.rules.sql import among_condition, view_with_among_columns
from filters.rules.statistics import Statistics, measure, statistics_rules


def quick(spark: SparkSession) -> SparkSession:
    """Set a session for queries of few rows; return it."""
    spark.conf.set("spark.sql.shuffle.partitions", "1")
    spark.conf.set("spark.sql.adaptive.enabled", "false")
    return spark


def measured(spark: SparkSession, rule: Rule, view: str) -> Statistics:
    """Return what `filters.rules.statistics` finds for a rule in the rows of a view."""
    found: dict[str, Any] = {}
    for part in statistics_rules(rule):
        [(signal, [column])] = part.own().items()
        pairs = view_with_among_columns(part, view, found)
        query = f"select uid, source, {signal}.{column} from {pairs} where {among_condition(part)}"
        found[part.name] = measure(part, partial(_fold, spark.sql(query).toArrow()))
    return found


def _fold(rows: pa.Table, columns: Sequence[str], function: Callable[[Iterator[pa.Table]], Any]) -> Sequence[Any]:
    return [function(iter([rows.select(columns)]))]
