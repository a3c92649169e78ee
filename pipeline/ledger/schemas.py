"""The schema of every table in a store. All but `jobs` are partitioned by `job`, the id of the job that wrote the rows.

Delta has neither float16 nor fixed-size lists, so an embedding is a `binary` of little-endian float16.
"""

import pyarrow as pa

SCHEMA_VERSION = 2
"""The version of `TABLES`, raised when a column is added; it is stored in the description of each Delta table.

A table of an earlier version is read with nulls for the columns that it lacks; they are added when it is next written.
A table of a later version is refused. Columns are only ever added: none is renamed, and none changes its type.
"""
DESCRIPTION = "cuvee schema {}"

S, I32, I64, F32, F64, B, BIN = (
    pa.string(),
    pa.int32(),
    pa.int64(),
    pa.float32(),
    pa.float64(),
    pa.bool_(),
    pa.binary(),
)


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind) for name, kind in columns.items()])


TABLES: dict[str, pa.Schema] = {
    # One row for each published row. `problem` is empty, or why the row is no pair (malformed, repeated_row, …);
    # `published` is JSON of the other columns that the source publishes, its own similarity for example. `licence` is
    # the row's, or the source's, or "unknown". `hashes`, `faces` and `place` are as in `pipeline.records`.
    "pairs": _schema(
        uid=S,
        source=S,
        record_id=S,
        url=S,
        caption=S,
        file=S,
        line=I64,
        problem=S,
        detail=S,
        published=S,
        licence=S,
        hashes=S,
        faces=S,
        place=S,
    ),
    # One row for each attempt to fetch a pair; `final` marks the one whose outcome is the pair's, until a later job
    # tries again. A published row that is no pair has attempt 0, and its problem as the outcome.
    "fetches": _schema(uid=S, source=S, attempt=I32, final=B, outcome=S, status=I32, detail=S, bytes=I64, seconds=F64),
    # One row for each stored pair: where its bytes lie. `offset` and `size` span its members in the tar;
    # the image's bytes start at offset + 512. Sizes of images are in pixels. `format` (jpeg, png, gif, …) is of the
    # body as it came, `frames` 1 but for animations. `verdict` compares the image with the published hashes
    # (`pipeline.ingest.hash_check`), "" where there are none; `blurred_faces` counts boxes. `pdq` (32 bytes) and
    # `pdq_quality` (0 to 100) are of the stored image, null where ingest had no use for them.
    "samples": _schema(
        uid=S,
        source=S,
        shard=S,
        offset=I64,
        size=I64,
        jpg_bytes=I64,
        jpg_sha256=S,
        raw_bytes=I64,
        raw_sha256=S,
        width=I32,
        height=I32,
        original_width=I32,
        original_height=I32,
        format=S,
        frames=I32,
        blurred_faces=I32,
        verdict=S,
        verdict_detail=S,
        pdq=BIN,
        pdq_quality=I32,
    ),
    # One row for each index built over a set: what it holds (`sha256` of the set), its kind (exact, ivf or ivfpq) and
    # `parameters` (JSON), the SHA-256 of its files by name (JSON), and the recall of the nearest other image, measured
    # against an exact search on `recall_sample` of its rows.
    "indexes": _schema(
        evaluation_set=S,
        rows=I64,
        dimensions=I32,
        metric=S,
        kind=S,
        parameters=S,
        sha256=S,
        files=S,
        recall=F64,
        recall_sample=I64,
        build_seconds=F64,
    ),
    "decisions": _schema(uid=S, source=S, filter=S, keep=B, reason=S),
    # One row for each chosen pair: `part` is the part of the mixture that it was sampled for, `times` how often it is
    # in the mixture, `rank` its place in the part by seeded hash.
    "mixtures": _schema(mixture=S, uid=S, source=S, part=S, times=I32, rank=I64),
    "exports": _schema(mixture=S, tar=S, pairs=I64, bytes=I64, sha256=S),
    "export_members": _schema(mixture=S, uid=S, tar=S, offset=I64, size=I64),
    # One row for each attempt at a training that ended: `outcome` is of `pipeline.training.launcher`, `reason` one
    # line, "" if it is done; otherwise `job` is an id of the attempt's own, and no finished job has it. `seconds` are
    # those of the attempt, which resumed from `resumed_from` samples. `versions` is JSON; `export_digest` is of the
    # tars read.
    "trainings": _schema(
        training=S,
        mixture=S,
        seed=I32,
        model=S,
        outcome=S,
        reason=S,
        samples_seen=I64,
        resumed_from=I64,
        seconds=F64,
        checkpoint=S,
        checkpoint_sha256=S,
        export_digest=S,
        arguments=S,
        versions=S,
        host=S,
        loss=F64,
    ),
    # One row for each evaluation image and model; a model of the experiment's own is named by its training. `logits` is
    # a float16 for each class, in class order: its logit less the greatest one, which is `first`. Of more than 200
    # classes it holds 50, and `classes` their numbers, each a uint32; `rest` and `rest_squares` stand for the others
    # (`pipeline.evaluation.predictions`). `scale` is the model's logit scale, which makes logits those of a softmax.
    "predictions": _schema(
        training=S,
        mixture=S,
        evaluation_set=S,
        key=S,
        label=I32,
        predicted=I32,
        logits=BIN,
        classes=BIN,
        first=F32,
        rest=F64,
        rest_squares=F64,
        scale=F64,
    ),
    # One row for each model and evaluation. `task` is zero_shot, or probe, whose logits need no scale and have 1.
    # `kind` is natural, or synthetic where `corruption` changed the images of the set `images_of` at a `severity` of 1
    # to 5. With `classes_of`, only the classes of that set were distinguished, on their images; other metrics than
    # accuracy are null there. Metrics are as in `pipeline.evaluation.metrics`: shares from 0 to 1, but `nll` in nats
    # and `brier` from 0 to 2; `low` and `high` are the exact 95% interval of `top1`.
    "evaluations": _schema(
        training=S,
        mixture=S,
        evaluation_set=S,
        task=S,
        kind=S,
        images_of=S,
        corruption=S,
        severity=I32,
        classes_of=S,
        n=I64,
        correct=I64,
        top1=F64,
        low=F64,
        high=F64,
        chance=F64,
        top5=F64,
        mean_per_class=F64,
        nll=F64,
        brier=F64,
        ece=F64,
        aurc=F64,
        scale=F64,
    ),
    # One row for each model and set of captioned images: recall at 1, 5 and 10, as in `pipeline.evaluation.retrieval`.
    "retrievals": _schema(
        training=S,
        mixture=S,
        evaluation_set=S,
        images=I64,
        texts=I64,
        image_to_text_1=F64,
        image_to_text_5=F64,
        image_to_text_10=F64,
        text_to_image_1=F64,
        text_to_image_5=F64,
        text_to_image_10=F64,
    ),
    # One row for each key that was taken down: `kind` and `value` are as in `pipeline.ingest.tombstones`, `distance`
    # is a PDQ's, in bits. `seen` is JSON: how often each training saw the pair of a uid, "" if none did.
    "tombstones": _schema(kind=S, value=S, distance=I32, reason=S, at=pa.timestamp("us", tz="UTC"), seen=S),
    "jobs": _schema(
        job=S,
        stage=S,
        name=S,
        started=pa.timestamp("us", tz="UTC"),
        finished=pa.timestamp("us", tz="UTC"),
        rows=S,
        config=S,
        inputs=S,
        code=S,
        versions=S,
        facts=S,
    ),
}


def signal_table(name: str) -> str:
    """Return the name of a signal's table."""
    return f"signals_{name}"
