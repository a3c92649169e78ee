"""Joins tables on uid with Arrow and numpy: they are split by uid into parts, and joined part by part.

Uids are hashes, so the parts are of about equal size; a part is a range of uids. The result does not depend on the
order of rows or files.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.uid_arrays import UID_HEX_DIGITS, UidKeys, find_keys, sort_order, uid_strings
from pipeline.core.uid_arrays import uid_keys as keys
from pipeline.errors import StageFailed

UID_TYPE = pa.binary(UID_HEX_DIGITS // 2)
"""The type of a uid between `split` and `joined`: 16 bytes, half as long as its text."""


def split_by_uid(rows: pa.Table, parts: int) -> Iterator[tuple[int, pa.Table]]:
    """Yield (part, its rows), with the column uid as UID; parts are numbered from 0 in ascending order of uids."""
    uid_keys = keys(rows["uid"])
    leading = np.ascontiguousarray(uid_keys).view(">u4")[::4].astype(np.uint64)
    part = leading * np.uint64(parts) >> np.uint64(32)
    narrow = part.astype(np.uint16 if parts <= 1 << 16 else np.uint32)
    by_part = np.argsort(narrow, kind="stable")  # a radix sort for 16-bit integers, in a third of the time
    uids = pa.Array.from_buffers(UID_TYPE, len(uid_keys), [None, pa.py_buffer(uid_keys)])
    ordered = rows.set_column(rows.schema.get_field_index("uid"), "uid", uids).take(pa.array(by_part))
    starts = np.searchsorted(part[by_part], np.arange(parts + 1))
    for number in range(parts):
        if starts[number + 1] > starts[number]:
            yield number, ordered.slice(starts[number], starts[number + 1] - starts[number])


def join_on_uid(base: pa.Table, others: Mapping[str, pa.Table]) -> pa.Table:
    """Return the rows of `base` in ascending order of uids, with a struct column of the columns of each of `others`.

    All tables have a column uid of type UID; the result's is text. A struct is null where the other table has no row of
    the uid, and a NaN in it becomes null. Raises StageFailed where a table has a uid twice.
    """
    base_order, base_uids = _sort_by_uid(base, "the pairs")
    columns = {"uid": uid_strings(base_uids)}
    columns |= {name: base[name].take(pa.array(base_order)) for name in base.column_names if name != "uid"}
    for name, other in others.items():
        other_order, other_uids = _sort_by_uid(other, name)
        positions, present = find_keys(base_uids, other_uids)
        indices = pa.array(other_order[positions] if len(other_order) else positions, mask=~present)
        rows = other.drop_columns(["uid"]).take(indices).combine_chunks()
        values = [_nan_to_null(column) for column in rows.columns]
        columns[name] = pa.StructArray.from_arrays(values, rows.column_names, mask=pa.array(~present))
    return pa.table(columns)


def _sort_by_uid(rows: pa.Table, name: str) -> tuple[npt.NDArray[np.intp], UidKeys]:
    """Return the row indices that sort a table by uid, and the sorted uids."""
    column = rows["uid"].combine_chunks()
    uids = np.frombuffer(column.buffers()[1] or b"", "S16")[column.offset : column.offset + len(column)]
    row_order = sort_order(uids)
    ordered = uids[row_order]
    if (repeated := ordered[1:] == ordered[:-1]).any():
        uid = uid_strings(ordered[1:][repeated][:1])[0].as_py()
        raise StageFailed(f"{name}: expected one row for each uid, found more of {uid}")
    return row_order, ordered


def _nan_to_null(column: pa.ChunkedArray) -> pa.Array:
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    return values
