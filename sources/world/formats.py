"""Writers of the six published formats, as their publishers write them, and of the ground truth.

A writer takes the rows of one source and each row's (width, height) in px, and writes files into that source's folder.
Fields of the real metadata that have no counterpart here (dates, authors, scores) are random, seeded by the row's
index.
"""

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote_plus, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sources.world.planning import PlannedRow

Sizes = Sequence[tuple[int, int]]


_EPOCH = datetime(2012, 3, 1, 8, tzinfo=UTC)


_WIT_COLUMNS = (
    "language",
    "page_url",
    "image_url",
    "page_title",
    "section_title",
    "hierarchical_section_title",
    "caption_reference_description",
    "caption_attribution_description",
    "caption_alt_text_description",
    "mime_type",
    "original_height",
    "original_width",
    "is_main_image",
    "attribution_passes_lang_id",
    "page_changed_recently",
    "context_page_description",
    "context_section_description",
)


_SUBREDDITS = ("itookapicture", "crafts", "roadtrip", "gardening")


def _rng(row: PlannedRow) -> np.random.Generator:
    return np.random.default_rng((9, row.index))


def write_yfcc(folder: Path, rows: Sequence[PlannedRow], sizes: Sizes) -> None:
    """`yfcc100m_dataset.tsv`: 25 columns, no header, text fields URL-encoded.

    A caption of the kind "tags" is written only to the user tags; all others to the title and the description.
    """
    lines = []
    for row in rows:
        rng = _rng(row)
        server, _, name = urlsplit(row.url).path.strip("/").rpartition("/")
        photo, _, secret = name.rpartition(".")[0].removesuffix("_o").partition("_")
        taken = _EPOCH + timedelta(hours=int(rng.integers(20_000)))
        user = f"{10_000_000 + int(rng.integers(9_000_000))}@N0{int(rng.integers(10))}"
        located = rng.random() < 0.3
        tags = row.caption.kind == "tags"
        fields = (
            row.index,
            photo,
            f"{int(rng.integers(2**62)):032x}",
            user,
            quote_plus(f"photo fan {int(rng.integers(500))}"),
            f"{taken:%Y-%m-%d %H:%M:%S}.0",
            int((taken + timedelta(days=3)).timestamp()),
            quote_plus(str(rng.choice(["Canon EOS 40D", "NIKON D90", "Apple iPhone 4S", ""]))),
            "" if tags else quote_plus(row.caption.title),
            "" if tags else quote_plus(row.caption.detail),
            ",".join(quote_plus(tag) for tag in row.caption.title.split(", ")) if tags else "",
            "",
            f"{rng.uniform(-180, 180):.6f}" if located else "",
            f"{rng.uniform(-60, 70):.6f}" if located else "",
            16 if located else "",
            f"http://www.yfcc.test/photos/{user}/{photo}/",
            row.url,
            "Attribution License",
            "http://creativecommons.org/licenses/by/2.0/",
            server,
            6,
            secret,
            secret,
            name.rpartition(".")[2],
            0,
        )
        lines.append("\t".join(str(value) for value in fields))
    (folder / "yfcc100m_dataset.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_laion(folder: Path, rows: Sequence[PlannedRow], sizes: Sizes) -> None:
    """Two `part-0000N.parquet` with LAION-400M's columns."""
    half = (len(rows) + 1) // 2
    for number in range(2):
        part = rows[number * half : (number + 1) * half]
        part_sizes = sizes[number * half : (number + 1) * half]
        rngs = [_rng(row) for row in part]
        table = pa.table(
            {
                "SAMPLE_ID": pa.array([1_000_000_007 * (row.index + 1) for row in part], pa.int64()),
                "URL": pa.array([row.url for row in part], pa.string()),
                "TEXT": pa.array([row.caption.text for row in part], pa.string()),
                "HEIGHT": pa.array([height for _, height in part_sizes], pa.int32()),
                "WIDTH": pa.array([width for width, _ in part_sizes], pa.int32()),
                "LICENSE": pa.array(["?" if rng.random() < 0.95 else "cc-by" for rng in rngs], pa.string()),
                "NSFW": pa.array(["UNLIKELY" if rng.random() < 0.97 else "UNSURE" for rng in rngs], pa.string()),
                # LAION keeps pairs from 0.3 up; the published value means little in this web and must not be trusted.
                "similarity": pa.array([0.3 + 0.1 * rng.random() for rng in rngs], pa.float64()),
            }
        )
        pq.write_table(table, folder / f"part-{number:05d}.parquet")


def _write_two_columns(file: Path, rows: Sequence[PlannedRow]) -> None:
    lines = [f"{row.url}\t{row.caption.text}\n" for row in rows]
    file.write_text("".join(lines), encoding="utf-8")


def write_cc12m(folder: Path, rows: Sequence[PlannedRow], sizes: Sizes) -> None:
    """`cc12m.tsv`: URL, tab, caption; no header and no quoting."""
    _write_two_columns(folder / "cc12m.tsv", rows)


def write_shutterstock(folder: Path, rows: Sequence[PlannedRow], sizes: Sizes) -> None:
    """`shutterstock.tsv`: URL, tab, caption; no header and no quoting."""
    _write_two_columns(folder / "shutterstock.tsv", rows)


def write_wit(folder: Path, rows: Sequence[PlannedRow], sizes: Sizes) -> None:
    """Two `wit_v1.train.all-0000N-of-00002.tsv.gz` of 17 columns with a header, quoted as by `csv.excel_tab`.

    The caption is in the reference description; for one row in five only in the alt text or the attribution.
    """
    half = (len(rows) + 1) // 2
    for number in range(2):
        text = io.StringIO(newline="")
        writer = csv.writer(text, csv.excel_tab)
        writer.writerow(_WIT_COLUMNS)
        span = slice(number * half, (number + 1) * half)
        for row, (width, height) in zip(rows[span], sizes[span], strict=True):
            rng = _rng(row)
            place = int(rng.choice(3, p=[0.8, 0.1, 0.1]))
            described = [row.caption.text if index == place else "" for index in range(3)]
            title = f"Article {row.index}"
            page = f"http://{row.caption.language}.wiki.test/wiki/Article_{row.index}"
            extension = row.url.rpartition(".")[2]
            writer.writerow(
                (
                    row.caption.language,
                    page,
                    row.url,
                    title,
                    "Gallery",
                    f"{title} / Gallery",
                    *described,
                    f"image/{'jpeg' if extension == 'jpg' else extension}",
                    height,
                    width,
                    "true" if rng.random() < 0.3 else "false",
                    "true",
                    "true",
                    f"{title} tells of things that people draw.",
                    "",
                )
            )
        # Time zero: the gzip header would otherwise contain the time of writing.
        packed = gzip.compress(text.getvalue().encode(), mtime=0)
        (folder / f"wit_v1.train.all-{number:05d}-of-00002.tsv.gz").write_bytes(packed)


def write_redcaps(folder: Path, rows: Sequence[PlannedRow], sizes: Sizes) -> None:
    """`<subreddit>_<year>.json`, for each of four subreddits and two years, as RedCaps publishes them."""
    files: dict[str, list[dict[str, object]]] = {
        f"{subreddit}_{year}": [] for subreddit in _SUBREDDITS for year in (2018, 2019)
    }
    for row in rows:
        rng = _rng(row)
        subreddit, year = _SUBREDDITS[int(rng.integers(len(_SUBREDDITS)))], 2018 + int(rng.integers(2))
        posted = datetime(year, 1, 1, tzinfo=UTC) + timedelta(minutes=int(rng.integers(500_000)))
        image_id = f"{36**5 + row.index:x}"
        files[f"{subreddit}_{year}"].append(
            {
                "image_id": image_id,
                "author": f"user{int(rng.integers(900))}",
                "url": row.url,
                "raw_caption": row.caption.text.capitalize() + (" [OC]" if rng.random() < 0.3 else ""),
                "caption": row.caption.text,
                "subreddit": subreddit,
                "score": int(rng.integers(2, 900)),
                "created_utc": int(posted.timestamp()),
                "permalink": f"/r/{subreddit}/comments/{image_id}/post/",
                "crosspost_parents": ["t3_abc12"] if rng.random() < 0.05 else None,
            }
        )
    for name, annotations in files.items():
        subreddit, _, year_text = name.rpartition("_")
        info = {
            "description": f"r/{subreddit}, {year_text}",
            "start_date": f"{year_text}-01-01",
            "end_date": f"{year_text}-12-31",
            "url": "http://redcaps.test",
            "version": "1.0",
        }
        (folder / f"{name}.json").write_text(json.dumps({"info": info, "annotations": annotations}), encoding="utf-8")


WRITERS: dict[str, Callable[[Path, Sequence[PlannedRow], Sizes], None]] = {
    "cc12m": write_cc12m,
    "laion": write_laion,
    "redcaps": write_redcaps,
    "shutterstock": write_shutterstock,
    "wit": write_wit,
    "yfcc": write_yfcc,
}


def write_truth(file: Path, rows: Sequence[PlannedRow]) -> None:
    """`truth.parquet`: one row for each published row. For tests and the report's self-check; no stage may read it."""
    names = (
        "source",
        "url",
        "class_name",
        "style",
        "behaviour",
        "plant",
        "plant_group",
        "transformation",
        "evaluation_set",
        "evaluation_key",
    )
    columns: dict[str, list[object]] = {name: [getattr(row, name) for row in rows] for name in names}
    columns["caption"] = [row.caption.text for row in rows]
    columns["caption_kind"] = [row.caption.kind for row in rows]
    pq.write_table(pa.table(columns), file)
