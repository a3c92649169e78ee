"""Published recipes by name. Each expands to rules as the experiment file has them, with the published thresholds.

A preset needs signals in roles; each role goes to the experiment's one signal of a kind, or to the one that the file
names. What a recipe did that is no signal here stands in its docstring.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.errors import InputError, unknown

FIVE_KB = 5_000
"""The "5 KB" of LAION and COYO, in bytes: neither says whether a KB is 1,000 or 1,024 bytes."""


class Signal(Protocol):
    """What a preset wants to know of a signal; `filters.signals.registry.SignalSpec` says it."""

    @property
    def kind(self) -> str:
        """Its kind."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Its settings, complete."""
        ...


Signals = Mapping[str, Signal]


Roles = Mapping[str, str]
"""The name of the signal in each role."""


Recipe = Callable[[Roles, Signals], dict[str, Any]]


@dataclass(frozen=True)
class Preset:
    """A recipe, where it is published, the kind of signal that each role wants, and what the recipe did beyond."""

    source: str
    roles: Mapping[str, str]
    recipe: Recipe

    @property
    def summary(self) -> str:
        """The first line of the recipe's docstring."""
        return (self.recipe.__doc__ or "").partition("\n")[0]

    def expanded(self, given: Mapping[Any, Any], signals: Signals, where: str) -> dict[str, Any]:
        """Return the rule, as the experiment file would have it, over the signals that `given` names by role.

        A role that is not given goes to the one signal of its kind; raises InputError where there is none, or more.
        """
        for role in given:
            if role not in self.roles:
                raise InputError(f"{where}.signals.{role}: {unknown('role', str(role), self.roles)}")
        bound = {role: str(given[role]) if role in given else "" for role in self.roles}
        for role, name in bound.items():
            bound[role] = name or _only(role, self.roles[role], signals, where)
            if bound[role] not in signals:
                raise InputError(f"{where}.signals.{role}: {unknown('signal', bound[role], signals)}")
        return self.recipe(bound, signals)


def _only(role: str, kind: str, signals: Signals, where: str) -> str:
    fit = [name for name, signal in signals.items() if signal.kind == kind]
    if len(fit) == 1:
        return fit[0]
    found = f"{', '.join(fit)}; name one, as in signals: {{{role}: {fit[0]}}}" if fit else "none"
    declared = "" if fit else f" among {', '.join(signals) or 'none declared'}"
    raise InputError(f"{where}.preset: expected one signal of kind {kind}, found {found}{declared}")


def _caption(role: str, words: int, chars: int) -> dict[str, str]:
    """Return DataComp's caption checks: English, more than so many words and characters."""
    return {
        "not_english": f"{role}.language <> 'en'",
        "caption_too_few_words": f"{role}.words <= {words}",
        "caption_too_short": f"{role}.chars <= {chars}",
    }


def datacomp_basic(roles: Roles, signals: Signals) -> dict[str, Any]:
    """English, more than 2 words and 5 characters, short side of 200 pixels or more, aspect of 3 or less.

    DataComp's language is fasttext's (lid.176), ours py3langid's; its words are what spaces separate, ours runs of
    letters and digits.
    """
    image = roles["image"]
    sizes = {"image_too_small": f"{image}.short_side < 200", "image_too_long": f"{image}.aspect > 3"}
    return {"drop_when": _caption(roles["caption"], 2, 5) | sizes}


def datacomp_clip_l14_30(roles: Roles, signals: Signals) -> dict[str, Any]:
    """The top 30 % by the similarity of OpenAI's CLIP ViT-L/14.

    DataComp keeps every pair at the value of rank floor(0.3 n), counted from 0, and above; here exactly ceil(0.3 n) are
    kept. That the signal is of ViT-L/14 is for the experiment to see to.
    """
    return {"top_fraction": 0.3, "by": f"{roles['clip']}.similarity"}


def datacomp_image_based(roles: Roles, signals: Signals) -> dict[str, Any]:
    """English, more than 1 word and 5 characters, and an image in a cluster that holds one of the reference set's.

    DataComp clusters the pool by OpenAI's CLIP ViT-L/14 into 100,000 clusters and takes ImageNet-1k's training images
    for reference; clusters, model and reference are the signal's settings here. Words and language: see datacomp_basic.
    """
    return {"all": [{"drop_when": _caption(roles["caption"], 1, 5)}, {"near_reference": roles["reference"]}]}


def datacomp_1b(roles: Roles, signals: Signals) -> dict[str, Any]:
    """DataComp-1B: datacomp_image_based and datacomp_clip_l14_30 both, the 30 % being of the whole pool.

    The threshold is taken over all of the pool's scores, not over what the image-based part keeps.
    """
    return {"all": [*datacomp_image_based(roles, signals)["all"], datacomp_clip_l14_30(roles, signals)]}


def laion_400m(roles: Roles, signals: Signals) -> dict[str, Any]:
    """5 characters and 5 KB or more, and a similarity of 0.3 or more by OpenAI's CLIP ViT-B/32.

    Left out: duplicates of URL and caption together (repeated rows are an outcome of ingest here), unreachable hosts,
    and the filters for content with minors and animals.
    """
    return {"all": [{"drop_when": _laion(roles)}, _similar(roles, 0.3)]}


def laion_2b_en(roles: Roles, signals: Signals) -> dict[str, Any]:
    """English, 5 characters and 5 KB or more, and a similarity of 0.28 or more by OpenAI's CLIP ViT-B/32.

    LAION's language is cld3's, ours py3langid's. Left out: duplicates of URL, and images of too high a resolution
    (which ingest refuses).
    """
    english = {"not_english": f"{roles['caption']}.language <> 'en'"}
    return {"all": [{"drop_when": _laion(roles) | english}, _similar(roles, 0.28)]}


def _laion(roles: Roles) -> dict[str, str]:
    return {
        "caption_too_short": f"{roles['caption']}.chars < 5",
        "image_too_few_bytes": f"{roles['image']}.raw_bytes < {FIVE_KB}",
    }


def _similar(roles: Roles, least: float) -> dict[str, Any]:
    return {"threshold": {"at_least": least, "by": f"{roles['clip']}.similarity", "reason": "similarity_too_low"}}


def coyo_700m(roles: Roles, signals: Signals) -> dict[str, Any]:
    """5 KB and 200 px or more, aspect of 3 or less; English, 3 to 256 words, 6 to 1000 characters, at most 10 times.

    COYO's language is cld3's, ours py3langid's; its words are what spaces separate. Left out: NSFW scores above 0.5
    (OpenNSFW2, GantMan), captions without a noun or with words of profanity lists, images of ImageNet, Flickr30k, COCO,
    CC3M and CC12M by pHash, and all but one of the pairs that share pHash and caption.
    """
    caption, image, repeats = roles["caption"], roles["image"], roles["repeats"]
    reasons = {
        "image_too_few_bytes": f"{image}.raw_bytes < {FIVE_KB}",
        "image_too_long": f"{image}.aspect > 3",
        "image_too_small": f"{image}.short_side < 200",
        "not_english": f"{caption}.language <> 'en'",
        "caption_too_short": f"{caption}.chars <= 5",
        "caption_too_long": f"{caption}.chars > 1000",
        "caption_too_few_words": f"{caption}.words < 3",
        "caption_too_many_words": f"{caption}.words > 256",
        "caption_repeated": f"{repeats}.caption_pairs > 10",
    }
    return {"drop_when": reasons}


def metaclip_400m(roles: Roles, signals: Signals) -> dict[str, Any]:
    """Of English captions that mention a concept of the list, those that balancing at t = 20,000 keeps.

    The list (MetaCLIP's has 500,000 entries of WordNet and Wikipedia) is a setting of the signal. t belongs to their
    pool of 1.6 billion matched pairs; a smaller pool wants a smaller one. Left out: duplicates of URL, NSFW images.
    """
    english = {"drop_when": {"not_english": f"{roles['caption']}.language <> 'en'"}}
    return {"balanced": roles["concepts"], "t": 20_000, "among": english}


def semdedup(roles: Roles, signals: Signals) -> dict[str, Any]:
    """Drops what is more similar than 1 - epsilon to an earlier pair of its cluster, the least typical ones first.

    Epsilon is what the paper varies; here it is 1 less the signal's setting `cosine`.
    """
    semantic = roles["semantic"]
    most = float(signals[semantic].settings["cosine"])
    return {"threshold": {"at_most": most, "by": f"{semantic}.max_cosine", "reason": "semantic_duplicate"}}


_DATACOMP = "Gadre et al. 2023, arXiv 2304.14108; mlfoundations/datacomp baselines/apply_filter.py"


_CAPTION, _IMAGE, _CLIP = {"caption": "caption"}, {"image": "image"}, {"clip": "clip"}


PRESETS: dict[str, Preset] = {
    "coyo_700m": Preset(
        "Byeon et al. 2022, kakaobrain/coyo-dataset README.md, Data Filtering",
        _CAPTION | _IMAGE | {"repeats": "repeats"},
        coyo_700m,
    ),
    "datacomp_1b": Preset(
        f"{_DATACOMP} image_based_intersect_clip_score", _CAPTION | _CLIP | {"reference": "reference"}, datacomp_1b
    ),
    "datacomp_basic": Preset(f"{_DATACOMP} basic_filter", _CAPTION | _IMAGE, datacomp_basic),
    "datacomp_clip_l14_30": Preset(f"{_DATACOMP} clip_score", _CLIP, datacomp_clip_l14_30),
    "datacomp_image_based": Preset(
        f"{_DATACOMP} image_based", _CAPTION | {"reference": "reference"}, datacomp_image_based
    ),
    "laion_2b_en": Preset(
        "Schuhmann et al. 2022, arXiv 2210.08402; laion.ai/blog/laion-5b", _CAPTION | _IMAGE | _CLIP, laion_2b_en
    ),
    "laion_400m": Preset(
        "Schuhmann et al. 2021, arXiv 2111.02114; laion.ai/blog/laion-400-open-dataset",
        _CAPTION | _IMAGE | _CLIP,
        laion_400m,
    ),
    "metaclip_400m": Preset(
        "Xu et al. 2023, arXiv 2309.16671; facebookresearch/MetaCLIP metaclip/balancing.py",
        _CAPTION | {"concepts": "concepts"},
        metaclip_400m,
    ),
    "semdedup": Preset(
        "Abbas et al. 2023, arXiv 2303.09540; facebookresearch/SemDeDup semdedup.py", {"semantic": "semantic"}, semdedup
    ),
}


def preset(name: Any, where: str) -> Preset:
    """Return a preset by its name; raise InputError with the choices where there is none."""
    if not isinstance(name, str) or name not in PRESETS:
        raise InputError(f"{where}.preset: {unknown('preset', str(name), PRESETS)}")
    return PRESETS[name]


def listed() -> str:
    """Return a line for each preset: its name, what it keeps, where it is published, and the signals that it wants."""
    lines = []
    for name, one in PRESETS.items():
        lines.append(f"  {name}: {one.summary}\n      {one.source}; signals: {', '.join(one.roles.values())}")
    return "\n".join(lines)
