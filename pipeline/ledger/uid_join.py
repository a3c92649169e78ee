"""Tables joined on uid by Arrow and numpy: split by uid into parts, then laid side by side, part by part.

Uids are hashes, so the parts are of one size, and a part is a range of uids. The result does not depend on the order of
rows or files.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.core.uid_arrays import HEX, Keys, keys, order, places, texts
from pipeline.errors import StageFailed

UID = pa.binary(HEX // 2)
"""How a uid is stored on its way: half as long as its text."""


def split(rows: pa.Table, parts: int) -> Iterator[tuple[int, pa.Table]]:
    """Yield (part, its rows) of rows with a column uid, which becomes UID; parts are counted from 0 as uids rise."""
    found = keys(rows["uid"])
    leading = np.ascontiguousarray(found).view(">u4")[::4].astype(np.uint64)
    part = leading * np.uint64(parts) >> np.uint64(32)
    few = part.astype(np.uint16 if parts <= 1 << 16 else np.uint32)
    by_part = np.argsort(few, kind="stable")  # by 16 bits it is a radix sort, in a third of the time
    uids = pa.Array.from_buffers(UID, len(found), [None, pa.py_buffer(found)])
    ordered = rows.set_column(rows.schema.get_field_index("uid"), "uid", uids).take(pa.array(by_part))
    starts = np.searchsorted(part[by_part], np.arange(parts + 1))
    for number in range(parts):
        if starts[number + 1] > starts[number]:
            yield number, ordered.slice(starts[number], starts[number + 1] - starts[number])


def joined(base: pa.Table, others: Mapping[str, pa.Table]) -> pa.Table:
    """Return the rows of `base`, by rising uid, with a struct column for each of `others`: its columns but uid.

    All have a column uid as `split` leaves it; the result's is text. The struct is null where the other has no row of
    a uid, and a NaN in it is null. Raises StageFailed where one of the tables has a uid twice.
    """
    at, mine = _sorted(base, "the pairs")
    columns = {"uid": texts(mine)}
    columns |= {name: base[name].take(pa.array(at)) for name in base.column_names if name != "uid"}
    for name, other in others.items():
        there, theirs = _sorted(other, name)
        found, present = places(mine, theirs)
        place = pa.array(there[found] if len(there) else found, mask=~present)
        rows = other.drop_columns(["uid"]).take(place).combine_chunks()
        values = [_without_nan(column) for column in rows.columns]
        columns[name] = pa.StructArray.from_arrays(values, rows.column_names, mask=pa.array(~present))
    return pa.table(columns)


def _sorted(rows: pa.Table, name: str) -> tuple[npt.NDArray[np.intp], Keys]:
    """Return the order of a table's uids, and the uids in order."""
    column = rows["uid"].combine_chunks()
    found = np.frombuffer(column.buffers()[1] or b"", "S16")[column.offset : column.offset + len(column)]
    at = order(found)
    ordered = found[at]
    if (twice := ordered[1:] == ordered[:-1]).any():
        uid = texts(ordered[1:][twice][:1])[0].as_py()
        raise StageFailed(f"{name}: expected one row for each uid, found more of {uid}")
    return at, ordered


def _without_nan(column: pa.ChunkedArray) -> pa.Array:
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    return values
