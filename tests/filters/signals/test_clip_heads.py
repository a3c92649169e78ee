"""Heads on embeddings: what torch computes of the same layers, whatever the batch; a hostile file is one line."""

import itertools
import json
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from filters.signals.base import embeddings_to_binary
from filters.signals.clip_heads import BATCH_ROWS, MAX_HEADER_BYTES, HeadsSignal, parse_layout
from filters.signals.registry import signal_spec
from jobs.score import clip_heads as heads_job
from pipeline.errors import InputError, StageFailed

Matrix = npt.NDArray[np.float32]


WIDTH = 6


LINEAR: list[dict[str, Any]] = [{"linear": "linear"}]


TORCH = {
    "none": torch.nn.Identity,
    "relu": torch.nn.ReLU,
    "gelu": torch.nn.GELU,
    "sigmoid": torch.nn.Sigmoid,
    "tanh": torch.nn.Tanh,
    "softmax": lambda: torch.nn.Softmax(dim=1),
}


def drawn(seed: int, rows: int) -> Matrix:
    """Return (rows, WIDTH) embeddings that are float16."""
    return np.random.default_rng(seed).normal(size=(rows, WIDTH)).astype(np.float16).astype(np.float32)


def table_of(vectors: Matrix) -> pa.Table:
    uids = [f"{number:032x}" for number in range(len(vectors))]
    return pa.table({"uid": uids, "source": ["s"] * len(uids), "image_embedding": embeddings_to_binary(vectors)})


def scores(signal: HeadsSignal, weights: bytes, vectors: Matrix) -> dict[str, list[Any]]:
    found = signal.compute(signal.open(weights), table_of(vectors), "here")
    assert found.column_names == ["uid", "source", *signal.outputs]
    assert found.schema.field(2).type == pa.float32()
    columns: dict[str, list[Any]] = found.select(signal.outputs).to_pydict()
    return columns


def head(**given: Any) -> HeadsSignal:
    return HeadsSignal(**{"clip": "clip_v1", "file": "head.safetensors", "layout": LINEAR} | given)


def linear(values: Any = None, bias: Any = (0.5,), dtype: torch.dtype = torch.float32) -> bytes:
    weight = torch.arange(WIDTH)[None] / 4 if values is None else torch.as_tensor(values)
    return bytes(save({"linear.weight": weight.to(dtype), "linear.bias": torch.as_tensor(bias).to(dtype)}))


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[dict[str, Any]], torch.nn.Sequential, int]:
    """Return a layout, the same as a torch module with random weights, and its number of outputs."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    layout: list[dict[str, Any]] = []
    modules: list[torch.nn.Module] = []
    width = WIDTH
    depth = draw(st.integers(1, 4))
    for place in range(depth):
        wide, bias = draw(st.integers(1, 7)), draw(st.booleans())
        layout.append({"linear": str(len(modules))} | ({} if bias and draw(st.booleans()) else {"bias": bias}))
        modules.append(torch.nn.Linear(width, wide, bias=bias))
        width = wide
        names = sorted(TORCH) if place == depth - 1 else sorted(set(TORCH) - {"softmax"})
        if name := draw(st.sampled_from(["", *names])):
            layout.append({"activation": name})
            modules.append(TORCH[name]())
    return layout, torch.nn.Sequential(*modules), width


@settings(max_examples=60, deadline=None)
@given(layouts(), st.integers(0, 99), st.integers(1, 5), st.booleans())
def test_a_head_computes_what_torch_computes(
    layers: tuple[list[dict[str, Any]], torch.nn.Sequential, int], seed: int, rows: int, normalise: bool
) -> None:
    layout, module, width = layers
    signal = head(layout=layout, normalise=normalise, output=[f"score_{place}" for place in range(width)])
    vectors = torch.from_numpy(drawn(seed, rows)).double()
    weights = save({key: value.contiguous() for key, value in module.state_dict().items()})
    with torch.inference_mode():
        expected = module.double()(torch.nn.functional.normalize(vectors, dim=1) if normalise else vectors)
    found = scores(signal, weights, drawn(seed, rows))
    assert pytest.approx(expected.numpy(), rel=1e-6, abs=1e-7) == np.array(list(found.values())).T


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3 * BATCH_ROWS), st.lists(st.integers(1, 3 * BATCH_ROWS), max_size=4), st.integers(0, 99))
def test_scores_have_the_same_bits_in_any_batch(rows: int, cuts: list[int], seed: int) -> None:
    signal = head(layout=[{"linear": "a"}, {"activation": "gelu"}, {"linear": "b"}])
    torch.manual_seed(seed)
    a, b = torch.nn.Linear(WIDTH, 33), torch.nn.Linear(33, 1)
    opened = signal.open(save({"a.weight": a.weight, "a.bias": a.bias, "b.weight": b.weight, "b.bias": b.bias}))
    table = table_of(drawn(seed, rows))
    whole = signal.compute(opened, table, "here")
    ends = sorted({0, rows, *(cut for cut in cuts if cut < rows)})
    parts = [
        signal.compute(opened, table.slice(first, last - first), "here") for first, last in itertools.pairwise(ends)
    ]
    assert pa.concat_tables(parts).combine_chunks() == whole.combine_chunks()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_weights_of_any_float_type_are_read(dtype: torch.dtype) -> None:
    found = scores(head(normalise=False), linear(dtype=dtype), np.eye(WIDTH, dtype=np.float32))
    assert found["score"] == [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]


def test_normalise_scales_to_unit_length_and_text_is_another_column() -> None:
    vectors = np.full((1, WIDTH), 3, np.float32)
    total = float(sum(range(WIDTH))) / 4
    assert scores(head(), linear(), vectors)["score"] == pytest.approx([total / WIDTH**0.5 + 0.5])
    assert scores(head(normalise=False), linear(), vectors)["score"] == [3 * total + 0.5]
    assert (head().column, head(input="text").column) == ("image_embedding", "text_embedding")
    assert head(output="aesthetic").columns == pa.schema([("aesthetic", pa.float32())])


def test_what_has_no_direction_or_no_finite_score_is_null() -> None:
    vectors = drawn(0, 5)
    vectors[1], vectors[2, 3], vectors[3, 0] = 0, np.nan, np.inf
    rows = table_of(vectors)
    missing = pa.array([*rows["image_embedding"].to_pylist()[:4], None], pa.binary())
    found = head().compute(head().open(linear()), rows.set_column(2, "image_embedding", missing), "here")
    assert [value is None for value in found["score"].to_pylist()] == [False, True, True, True, True]
    huge = linear(torch.full((1, WIDTH), 1e300, dtype=torch.float64), dtype=torch.float64)
    assert scores(head(), huge, np.abs(drawn(0, 2)) + 1)["score"] == [None, None]
    assert head().compute(head().open(linear()), table_of(drawn(0, 0)), "here").num_rows == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"layout": []}, "layout: expected a list of layers"),
        ({"layout": "linear"}, "layout: expected a list of layers"),
        ({"layout": [{"activation": "relu"}]}, "layout: expected at least one"),
        ({"layout": [{"linear": ""}]}, r"layout\[0\]: expected .*found \{'linear': ''\}"),
        ({"layout": [{"linear": "a", "activation": "relu"}]}, r"layout\[0\]: expected"),
        ({"layout": [{"linear": "a", "bias": "no"}]}, r"layout\[0\]: expected"),
        ({"layout": [{"linear": "a"}, "relu"]}, r"layout\[1\]: expected"),
        (
            {"layout": [{"linear": "a"}, {"activation": "rele"}]},
            r"layout\[1\]: unknown activation 'rele' \(did you mean",
        ),
        ({"layout": [{"activation": "softmax"}, {"linear": "a"}]}, r"layout\[0\]: expected softmax as the last"),
        ({"input": "audio"}, "input: expected image or text, found 'audio'"),
        ({"normalise": "yes"}, "normalise: expected true or false, found 'yes'"),
        ({"output": []}, "output: expected a column name"),
        ({"output": ["a", 3]}, "output: expected a column name"),
        ({"output": 3}, "output: expected a column name"),
        ({"output": {"a": 1}}, "output: expected a column name"),
        ({"output": ["uid"]}, "output: expected a name of letters"),
        ({"output": "a; drop"}, "output: expected a name of letters"),
        ({"output": ["a", "A"]}, "output: expected each name once"),
        ({"file": ""}, "file: expected a name"),
        ({"clip": 3}, "clip: expected a name"),
    ],
)
def test_wrong_settings_are_refused_before_anything_runs(given: dict[str, Any], said: str) -> None:
    plain = {"kind": "heads", "clip": "clip_v1", "file": "head.safetensors", "layout": LINEAR}
    with pytest.raises(InputError, match=rf"^signals\.aesthetic_v1\.{said}"):
        signal_spec("aesthetic_v1", plain | given)


def test_the_layouts_in_the_docstring_are_layouts() -> None:
    assert len(parse_layout([{"linear": f"layers.{place}"} for place in (0, 2, 4, 6, 7)])) == 5
    assert parse_layout([{"linear": "a", "bias": False}]) == parse_layout([{"bias": False, "linear": "a"}])


def padded(header: bytes, tail: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + tail


def claims(shape: list[int], end: int, tail: bytes = b"") -> bytes:
    tensor = {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}
    return padded(json.dumps({"linear.weight": tensor}).encode(), tail)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "expected a safetensors file"),
        (linear()[:-3], "not a safetensors file: .*not fully covered"),
        (struct.pack("<Q", 1 << 40) + b"{}", "expected a safetensors file"),
        (struct.pack("<Q", MAX_HEADER_BYTES + 1) + b" " * (MAX_HEADER_BYTES + 9), "expected a safetensors file"),
        (pickle.dumps({"linear.weight": [[1.0] * WIDTH]}), "expected a safetensors file"),
        (b"PK\x03\x04" + b"\0" * 400, "expected a safetensors file"),
        (padded(b"[]"), "not a safetensors file: .*invalid JSON"),
        (claims([1 << 38, WIDTH], 4 * WIDTH << 38), "not a safetensors file"),
        (claims([1, WIDTH], 8, b"\0" * 8), "not a safetensors file"),
        (save({"other": torch.ones(1)}), "unknown tensor 'linear.weight': expected one of other"),
        (save({"linear.weight": torch.ones(1, WIDTH)}), "unknown tensor 'linear.bias'"),
        (save({"linear.weight": torch.ones(1, 6, dtype=torch.int64)}), r"linear.weight: expected the type .*found I64"),
        (linear([[1, 2, 3, float("nan"), 5, 6.0]]), "linear.weight: expected finite numbers, found NaN"),
        (linear(bias=[float("inf")]), "linear.bias: expected finite numbers, found an infinity"),
        (linear([1.0, 2]), r"linear.weight: expected the shape \(outputs, inputs\), found \(2,\)"),
        (linear(torch.ones(0, 6), bias=torch.ones(0)), r"linear.weight: expected the shape .*found \(0, 6\)"),
        (linear(bias=[1.0, 2]), r"linear.bias: expected the shape \(1,\), found \(2,\)"),
    ],
)
def test_a_hostile_file_is_refused_in_one_line(data: bytes, said: str) -> None:
    with pytest.raises(InputError, match=f"^head.safetensors: {said}") as caught:
        head(file="head.safetensors", layout=LINEAR).open(data)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_damage_to_a_file_is_more_than_one_line(data: st.DataObject) -> None:
    whole = bytearray(linear())
    for place in data.draw(st.lists(st.integers(0, len(whole) - 1), min_size=1, max_size=6)):
        whole[place] = data.draw(st.integers(0, 255))
    try:
        opened = head().open(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert opened.width == WIDTH


def test_layers_that_do_not_fit_each_other_or_the_columns_are_refused() -> None:
    two = save({f"{name}.weight": torch.ones(3, wide) for name, wide in (("a", 6), ("b", 4))})
    layout = [{"linear": "a", "bias": False}, {"linear": "b", "bias": False}]
    with pytest.raises(InputError, match=r"b.weight: expected the shape \(outputs, 3\), found \(3, 4\)"):
        head(layout=layout).open(two)
    with pytest.raises(
        InputError, match=r"output: expected a name for each of head.safetensors's 3 outputs, found score"
    ):
        head(layout=layout[:1]).open(two)
    mixed = table_of(drawn(0, 2)).set_column(2, "image_embedding", pa.array([b"\0\x3c", b"\0\x3c" * 6]))
    with pytest.raises(StageFailed, match=r"^here: expected embeddings of one length"):
        head().compute(head().open(linear()), mixed, "here")


def test_a_file_that_changed_is_too_large_or_absent_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "head.safetensors"
    with pytest.raises(InputError, match=r"head.safetensors: cannot be read: No such file"):
        heads_job.read_weights(str(path), "")
    path.write_bytes(linear())
    with pytest.raises(StageFailed, match="changed since the plan was made"):
        heads_job.read_weights(str(path), "0" * 64)
    monkeypatch.setattr(heads_job, "MAX_WEIGHTS_BYTES", 10)
    with pytest.raises(InputError, match="expected at most 10 bytes, found more"):
        heads_job.read_weights(str(path), "0" * 64)
