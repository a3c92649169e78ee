"""Connected components of a graph of strings, in Spark or in the driver: both give the same rows.

In Spark by alternating large-star and small-star (Kiveris et al. 2014, "Connected Components in MapReduce and Beyond",
algorithms 1 and 2): each step keeps the components, and ends in stars whose centre is a component's smallest string,
after about the square of the logarithm of the largest component's size. The edges between two steps are staged, which
cuts Spark's plan and lets a run that was killed go on from the last step.
"""

from functools import partial
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from filters.search.connected_components import string_components
from jobs.spark.frames import parquet_frame
from jobs.spark.staging import StagedTable, read_staged, run_step_once, stage_frame, write_batches
from pipeline.errors import StageFailed
from pipeline.storage.store import Store

EDGE_SCHEMA = pa.schema([("left", pa.string()), ("right", pa.string())])


GROUP_SCHEMA = pa.schema([("member", pa.string()), ("group", pa.string())])


MAX_DRIVER_EDGES = 4_000_000
"""Edges up to which the driver finds the components: with their strings they take less than 1 GB there."""


MAX_STEPS = 100


def _neighbours(edges: DataFrame) -> DataFrame:
    """Return both directions of each edge, with the smaller of `left` and its smallest neighbour as `least`."""
    directed = edges.union(edges.select(F.col("right"), F.col("left")))
    least = directed.groupBy("left").agg(F.min("right").alias("least"))
    return directed.join(least, "left").withColumn("least", F.least("left", "least"))


def large_star(edges: DataFrame) -> DataFrame:
    """Return edges that link each node's larger neighbours to its smallest neighbour, or to itself if it is less."""
    larger = _neighbours(edges).filter("right > left")
    return larger.select(F.col("right").alias("left"), F.col("least").alias("right")).distinct()


def small_star(edges: DataFrame) -> DataFrame:
    """Return edges that link each node and its smaller neighbours to the smallest of these."""
    down = edges.select(F.greatest("left", "right").alias("left"), F.least("left", "right").alias("right"))
    least = down.groupBy("left").agg(F.min("right").alias("least"))
    joined = down.join(least, "left")
    others = joined.filter("right != least").select(F.col("right").alias("left"), F.col("least").alias("right"))
    return others.union(least.select(F.col("left"), F.col("least").alias("right"))).distinct()


def are_stars(edges: DataFrame) -> bool:
    """Tell whether every node has one edge to a smaller one, or only edges from larger ones."""
    ends = edges.select(F.col("left").alias("node"), F.lit(1).alias("out"), F.lit(0).alias("into"))
    ends = ends.union(edges.select(F.col("right"), F.lit(0), F.lit(1)))
    counts = ends.groupBy("node").agg(F.sum("out").alias("out"), F.sum("into").alias("into"))
    return not counts.filter("out > 1 or (out = 1 and into > 0)").limit(1).count()


def _check_stars(edges: DataFrame) -> dict[str, Any]:
    return {"stars": are_stars(edges)}


def components_in_spark(spark: SparkSession, store: Store, group: str, edges: DataFrame) -> DataFrame:
    """Return (member, group) of each node of `edges` (left, right) but for those that are their group's name.

    Its steps are staged in `group`. Raises StageFailed where it does not end.
    """
    for step in range(MAX_STEPS):
        staged = stage_frame(small_star(large_star(edges)), store, group, f"stars-{step:03d}")
        edges = parquet_frame(spark, store, staged.files, EDGE_SCHEMA)
        if run_step_once(store, group, f"stars-{step:03d}-checked", partial(_check_stars, edges))["stars"]:
            return edges.select(F.col("left").alias("member"), F.col("right").alias("group"))
    raise StageFailed(f"{store.root}: connected components: expected stars after {MAX_STEPS} steps")


def components_in_driver(spark: SparkSession, store: Store, group: str, edges: StagedTable) -> DataFrame:
    """Return what `components_in_spark` returns."""
    table = read_staged(store, edges.files, EDGE_SCHEMA)
    groups = string_components(table["left"], table["right"])
    path = f"staging/{group}/components.parquet"
    write_batches(store, path, GROUP_SCHEMA, groups.to_batches())
    return parquet_frame(spark, store, [path], GROUP_SCHEMA).filter("member != group")


def connected_components(spark: SparkSession, store: Store, group: str, edges: StagedTable) -> tuple[DataFrame, str]:
    """Return (member, group) of the nodes of staged edges as `components_in_spark` does, and where it was computed."""
    if edges.rows <= MAX_DRIVER_EDGES:
        return components_in_driver(spark, store, group, edges), "driver"
    return components_in_spark(spark, store, group, parquet_frame(spark, store, edges.files, EDGE_SCHEMA)), "spark"
