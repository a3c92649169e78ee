"""Heads on CLIP embeddings: a linear layer or small MLP with weights from a safetensors file and a declared layout."""

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from filters.search.cosine import Halves, usable_embeddings
from pipeline.errors import InputError, unknown_message

Doubles = npt.NDArray[np.float64]


MAX_WEIGHTS_BYTES, MAX_HEADER_BYTES = 256 << 20, 1 << 20
"""Largest weights file and largest header of one, in bytes. LAION's aesthetic MLP on ViT-L/14 has 3.7 MB."""


BATCH_ROWS = 256
"""Rows computed at once, the last batch padded: all products have one shape, so a row's sums do not vary."""


_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def _gelu(x: Doubles) -> Doubles:
    """Return x times the normal distribution function at x (Hendrycks and Gimpel 2016), torch's default variant."""
    from scipy.special import ndtr

    return np.asarray(x * ndtr(x))


def _sigmoid(x: Doubles) -> Doubles:
    from scipy.special import expit

    return np.asarray(expit(x))


def _softmax(x: Doubles) -> Doubles:
    from scipy.special import softmax

    return np.asarray(softmax(x, axis=1))


ACTIVATIONS: dict[str, Callable[[Doubles], Doubles]] = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": _gelu,
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "softmax": _softmax,
}


@dataclass(frozen=True)
class Linear:
    """A layer x W^T + b with the tensors `<name>.weight`, (out, in), and, if `bias` is set, `<name>.bias`, (out,)."""

    name: str
    bias: bool

    @property
    def tensors(self) -> list[str]:
        """The names of the layer's tensors."""
        return [f"{self.name}.weight", *([f"{self.name}.bias"] if self.bias else [])]


@dataclass(frozen=True)
class HeadsSignal:
    """A score of each embedding of a CLIP signal. For example, LAION's aesthetic predictors on a ViT-L/14:

        clip_l14_v1: {kind: clip, model: l14}
        aesthetic_v1:    # LAION-AI/aesthetic-predictor: one layer, written as linear.weight and .bias
          {kind: heads, clip: clip_l14_v1, file: sa_0_4_vit_l_14.safetensors, layout: [{linear: linear}]}
        aesthetic_v2:    # christophschuhmann/improved-aesthetic-predictor: five layers
          kind: heads
          clip: clip_l14_v1
          file: sac_logos_ava1_l14_linearMSE.safetensors
          layout: [{linear: layers.0}, {linear: layers.2}, {linear: layers.4}, {linear: layers.6}, {linear: layers.7}]
          output: aesthetic

    `layout` lists the layers in order: {linear: NAME}, with `bias: false` where it has none, and {activation: NAME},
    one of none, relu, gelu, sigmoid, tanh and, only as the last layer, softmax. Dropout is not declared: it has no
    effect at inference. A head published as a pickle must first be converted to safetensors, which cannot contain code.
    `input` is image or text; `normalise` scales the embedding to unit length first (stored embeddings have unit length
    except for float16 rounding); `output` names the columns, one for each output of the last layer. They are float32,
    and null where the embedding has no direction (NaN, zero or null) or the result is not finite.
    """

    clip: str
    file: str
    layout: Sequence[Mapping[str, Any]]
    input: str = "image"
    normalise: bool = True
    output: str | Sequence[str] = ("score",)

    def __post_init__(self) -> None:
        for key in ("clip", "file"):
            if not isinstance(value := getattr(self, key), str) or not value:
                raise InputError(f"{key}: expected a name, found {value!r}")
        if self.input not in ("image", "text"):
            raise InputError(f"input: expected image or text, found {self.input!r}")
        if not isinstance(self.normalise, bool):
            raise InputError(f"normalise: expected true or false, found {self.normalise!r}")
        _check_outputs(self.output)
        parse_layout(self.layout)

    @property
    def outputs(self) -> list[str]:
        """The names of the output columns."""
        return [self.output] if isinstance(self.output, str) else list(self.output)

    @property
    def column(self) -> str:
        """The column of the CLIP signal that the head reads."""
        return f"{self.input}_embedding"

    @property
    def columns(self) -> pa.Schema:
        """The signal's columns."""
        return pa.schema([(name, pa.float32()) for name in self.outputs])

    def open(self, data: bytes) -> "Head":
        """Return the head in a safetensors file; raise InputError where it is not one, or does not have this layout."""
        layers = parse_layout(self.layout)
        linears = [layer for layer in layers if isinstance(layer, Linear)]
        tensors = read_tensors(data, self.file, [name for layer in linears for name in layer.tensors])
        steps: list[HeadStep] = []
        width = 0
        for layer in layers:
            if isinstance(layer, str):
                steps.append(ACTIVATIONS[layer])
                continue
            weight = tensors[f"{layer.name}.weight"]
            if weight.ndim != 2 or 0 in weight.shape or (width and weight.shape[1] != width):
                raise _shape_error(self.file, f"{layer.name}.weight", f"(outputs, {width or 'inputs'})", weight)
            width = len(weight)
            bias = tensors[f"{layer.name}.bias"] if layer.bias else np.zeros(width)
            if bias.shape != (width,):
                raise _shape_error(self.file, f"{layer.name}.bias", f"({width},)", bias)
            steps.append((weight, bias))
        if width != len(self.outputs):
            names = ", ".join(self.outputs)
            raise InputError(f"output: expected a name for each of {self.file}'s {width} outputs, found {names}")
        return Head(tensors[linears[0].tensors[0]].shape[1], tuple(steps))

    def compute(self, head: "Head", rows: pa.Table, where: str) -> pa.Table:
        """Return uid, source and the columns from rows of the CLIP signal (uid, source, its embedding).

        Raises StageFailed, prefixed by `where`, for embeddings of different lengths.
        """
        usable_rows, vectors = usable_embeddings(rows[self.column], where)
        scores = np.full((len(usable_rows), len(self.outputs)), np.nan, np.float32)
        if len(vectors):
            scores[usable_rows] = head.apply(vectors, self.normalise)
        columns = {name: rows[name] for name in ("uid", "source")}
        columns |= {
            name: pa.array(column, mask=~np.isfinite(column))
            for name, column in zip(self.outputs, scores.T.copy(), strict=True)
        }
        return pa.table(columns)


HeadStep = tuple[Doubles, Doubles] | Callable[[Doubles], Doubles]


@dataclass(frozen=True)
class Head:
    """A head with its weights: it takes `width` numbers; each step is (weight, bias) or an activation."""

    width: int
    steps: tuple[HeadStep, ...]

    def apply(self, vectors: Halves, normalise: bool) -> npt.NDArray[np.float32]:
        """Return (n, outputs) of (n, width) embeddings, none of them zero; in float64, independent of batching."""
        parts = []
        for first in range(0, len(vectors), BATCH_ROWS):
            batch = vectors[first : first + BATCH_ROWS].astype(np.float64)
            x = np.zeros((BATCH_ROWS, self.width))
            x[: len(batch)] = batch / np.sqrt((batch * batch).sum(axis=1, keepdims=True)) if normalise else batch
            with np.errstate(all="ignore"):  # an overflow is not a score
                for step in self.steps:
                    x = step(x) if callable(step) else x @ step[0].T + step[1]
                parts.append(x[: len(batch)].astype(np.float32))
        return np.concatenate(parts)


def parse_layout(layout: Any) -> list[Linear | str]:
    """Return the layers of a declared layout, activations by name; raise InputError where the layout is invalid."""
    if isinstance(layout, str) or not isinstance(layout, Sequence) or not layout:
        raise InputError(f"layout: expected a list of layers such as {{linear: NAME}}, found {layout!r}")
    layers: list[Linear | str] = []
    for place, layer in enumerate(layout):
        match dict(layer) if isinstance(layer, Mapping) else layer:
            case {"linear": str(name), "bias": bool(bias), **rest} if name and not rest:
                layers.append(Linear(name, bias))
            case {"linear": str(name), **rest} if name and not rest:
                layers.append(Linear(name, True))
            case {"activation": str(name), **rest} if not rest:
                if name not in ACTIVATIONS:
                    raise InputError(f"layout[{place}]: {unknown_message('activation', name, ACTIVATIONS)}")
                if name == "softmax" and place < len(layout) - 1:
                    raise InputError(f"layout[{place}]: expected softmax as the last layer alone")
                layers.append(name)
            case found:
                raise InputError(
                    f"layout[{place}]: expected {{linear: NAME}}, {{linear: NAME, bias: false}} or "
                    f"{{activation: NAME}}, found {found!r}"
                )
    if not any(isinstance(layer, Linear) for layer in layers):
        raise InputError("layout: expected at least one {linear: NAME}, found none")
    return layers


def _check_outputs(output: Any) -> None:
    names = [output] if isinstance(output, str) else output
    if not isinstance(names, Sequence) or not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"output: expected a column name or a list of them, found {output!r}")
    for name in names:
        if not _COLUMN.fullmatch(name) or name.lower() in ("uid", "source", "job"):
            raise InputError(
                f"output: expected a name of letters, digits and _, not uid, source or job, found {name!r}"
            )
    if len({name.lower() for name in names}) < len(names):
        raise InputError(f"output: expected each name once, found {', '.join(names)}")


def _shape_error(file: str, name: str, expected: str, tensor: npt.NDArray[Any]) -> InputError:
    return InputError(f"{file}: {name}: expected the shape {expected}, found {tensor.shape}")


def read_tensors(data: bytes, where: str, names: Sequence[str]) -> dict[str, Doubles]:
    """Return the tensors of a safetensors file by these names.

    Raises InputError, prefixed by `where`, for a file that is not safetensors or lacks one of the tensors, and for a
    tensor that is not of a float type or not finite throughout.
    """
    import safetensors

    deserialize: Any = safetensors.deserialize

    header = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else 0
    if not 0 < header <= min(MAX_HEADER_BYTES, len(data) - 8):
        raise InputError(f"{where}: expected a safetensors file, found one of {len(data)} bytes without its header")
    try:
        entries = dict(deserialize(data))
    except safetensors.SafetensorError as error:
        raise InputError(f"{where}: not a safetensors file: {str(error).splitlines()[0][:200]}") from None
    tensors = {}
    for name in names:
        if name not in entries:
            raise InputError(f"{where}: {unknown_message('tensor', name, sorted(entries)[:50])}")
        kind, shape, raw = (entries[name][key] for key in ("dtype", "shape", "data"))
        if kind not in _TYPES:
            raise InputError(f"{where}: {name}: expected the type {', '.join(sorted(_TYPES))}, found {kind}")
        values = np.frombuffer(raw, _TYPES[kind])
        if kind == "BF16":  # the upper half of a float32
            values = (values.astype("<u4") << 16).view("<f4")
        tensors[name] = values.reshape(shape).astype(np.float64)
        if not np.isfinite(tensors[name]).all():
            raise InputError(f"{where}: {name}: expected finite numbers, found {_nonfinite_name(tensors[name])}")
    return tensors


def _nonfinite_name(values: Doubles) -> str:
    return "NaN" if np.isnan(values).any() else "an infinity"
