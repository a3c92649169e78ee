"""The sections `mixtures` and `export` of the experiment file."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.base import Count, Section, Share


class Part(Section):
    """A part of a mixture: the pairs of `sources` that `filter` keeps and `dropped_by` drops, or all that are there.

    `by` names a signal's column: only pairs are in the part for which it is one of `values`, or a number from `least`
    on and below `below`. `share` is in proportion to the other parts'.
    """

    name: str = ""
    share: Share | None = None
    sources: tuple[str, ...] = ()
    filter: str = ""
    dropped_by: str = ""
    by: str = ""
    values: tuple[str, ...] = ()
    least: float | None = None
    below: float | None = None


class Mixture(Section):
    """Shares of the pairs that `filter` keeps, of `sources` or all. `total` is a number of pairs, or "all" there are.

    `shares` are by source; by the values of a signal's column, where `by` names one; or a list, one for each of the
    ranges into which `buckets` cut its numbers, from the lowest. Or the mixture is a list of `parts`, and a pair is in
    the first that takes it. Without shares, every source or part gives what it has. `uids` names a file of uids, as
    text or as a subset of DataComp's, beyond which nothing is taken; `missing` of them need not be stored.
    `pipeline.mixtures.parts` checks how these go together.

    When a part is short of its share, `shortage` says what happens: the job fails, all shrink in proportion, or pairs
    are repeated at most `repeat` times each, by `copies` in the export or by `weights` for its reader. Images that
    are not what their source says they are, by its hash, are drawn only where `mismatched` says so.
    """

    filter: str = ""
    sources: tuple[str, ...] = ()
    by: str = ""
    buckets: tuple[float, ...] = ()
    shares: dict[str, Share] | tuple[Share, ...] = {}
    parts: tuple[Part, ...] = ()
    uids: str = ""
    missing: Annotated[int, Field(ge=0)] = 0
    total: Count | Literal["all"] = "all"
    shortage: Literal["fail", "shrink", "repeat"] = "fail"
    repeat: Count = 1
    repeat_as: Literal["copies", "weights"] = "copies"
    mismatched: bool = False

    @model_validator(mode="after")
    def _sources_once(self) -> "Mixture":
        if self.sources and self.shares and not self.by:
            raise ValueError("expected sources or shares, found both")
        return self


class Export(Section):
    """`pairs_per_tar` pairs go into a tar; `train` needs at least as many tars as it has loader workers.

    `contact` is where to ask for an image's removal, for the data card.
    """

    pairs_per_tar: Count = 10_000
    contact: str = ""
