"""The sections `mixtures` and `export` of the experiment file."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.base import ConfigSection, Count, PositiveFloat


class MixturePartConfig(ConfigSection):
    """A part of a mixture: the pairs that meet all conditions given here; a part without any takes every pair.

    A pair is in the first part that takes it.
    """

    name: str = ""
    """Name of the part in tables and reports. Default: empty, composed of the conditions. Example: `sharp photos`."""

    share: PositiveFloat | None = None
    """Weight of the part, in proportion to the other parts' shares; given for every part or for none. Default: null,
    the part gives all its pairs. Example: `2`."""

    sources: tuple[str, ...] = ()
    """Sources of the part's pairs. Default: empty, the mixture's sources. Example: `[yfcc, wit]`."""

    filter: str = ""
    """Filter that must keep the part's pairs. Default: empty, no condition. Example: `clip_top`."""

    dropped_by: str = ""
    """Filter that must drop the part's pairs. Default: empty, no condition. Example: `near`."""

    by: str = ""
    """Column of a signal, as `signal.column`, that `values` or `least` and `below` refer to. Default: empty, no
    condition. Example: `clip_v1.similarity`."""

    values: tuple[str, ...] = ()
    """Values of the column `by`, one of which a pair must have; not together with `least` and `below`. Default: empty,
    no condition. Example: `[en, de]`."""

    least: float | None = None
    """Smallest number in the column `by`, inclusive. Default: null, no lower bound. Example: `0.25`."""

    below: float | None = None
    """Upper bound of the number in the column `by`, exclusive. Default: null, no upper bound. Example: `0.3`."""


class MixtureConfig(ConfigSection):
    """A mixture: pairs that a filter keeps, in given shares. Without shares every source or part gives all its pairs.

    `pipeline.mixtures.parts` checks that the keys go together.
    """

    filter: str = ""
    """Filter that must keep the mixture's pairs. Default: empty, no filter. Example: `filtered`."""

    sources: tuple[str, ...] = ()
    """Sources of the mixture's pairs; not together with shares by source. Default: empty, all sources.
    Example: `[yfcc]`."""

    by: str = ""
    """Column of a signal, as `signal.column`, by which the shares go. Default: empty, by source.
    Example: `caption_v1.language`."""

    buckets: tuple[float, ...] = ()
    """Ascending numbers that cut the values of the column `by` into ranges, one more than there are numbers. Default:
    empty, no ranges. Example: `[0.2, 0.3]`."""

    shares: dict[str, PositiveFloat] | tuple[PositiveFloat, ...] = {}
    """Shares in proportion to each other: by source; with `by`, by the column's values; with `buckets`, a list of one
    for each range, from the lowest. Default: empty, all that there is. Example: `{yfcc: 1, wit: 1}`."""

    parts: tuple[MixturePartConfig, ...] = ()
    """Parts of the mixture, in place of `shares`; a pair is in the first part that takes it. Default: none.
    Example: `[{filter: clip_top, share: 2}, {dropped_by: clip_top, share: 1}]`."""

    uids: str = ""
    """File of uids, as text with one a line or as a DataComp subset (`.npy`); only pairs that it lists are taken.
    Default: empty, no such limit. Example: `lists/medium.npy`."""

    missing: Annotated[int, Field(ge=0)] = 0
    """Number of the uids in `uids` that need not be stored; with `uids` only. Default: `0`. Example: `1000`."""

    total: Count | Literal["all"] = "all"
    """Size of the mixture in pairs, or `all` that there are. Default: `all`. Example: `100000`."""

    shortage: Literal["fail", "shrink", "repeat"] = "fail"
    """What happens where a part has fewer pairs than its share: `fail` ends the job, `shrink` reduces all parts in
    proportion, `repeat` repeats pairs up to `repeat` times each. Default: `fail`. Example: `shrink`."""

    repeat: Count = 1
    """Most times that a pair may be in the mixture, with `shortage: repeat`. Default: `1`. Example: `4`."""

    repeat_as: Literal["copies", "weights"] = "copies"
    """How repetition is exported: `copies` in the tars, or `weights` (open_clip's upsampling factors) for their reader.
    Default: `copies`. Example: `weights`."""

    mismatched: bool = False
    """Whether images that are not what their source published, by its hash, may be in the mixture. Default: `false`.
    Example: `true`."""

    @model_validator(mode="after")
    def _sources_once(self) -> "MixtureConfig":
        if self.sources and self.shares and not self.by:
            raise ValueError("expected sources or shares, found both")
        return self


class ExportConfig(ConfigSection):
    """How mixtures are written as tars."""

    pairs_per_tar: Count = 10_000
    """Pairs in one tar; training needs at least as many tars as it has loader workers. Default: `10000`. Example:
    `1000`."""

    contact: str = ""
    """Address for requests to remove an image, for the data card. Default: empty, none is named.
    Example: `data@example.org`."""
