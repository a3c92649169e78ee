"""Published filtering recipes by name. Each expands to rules in the experiment file's form, with published thresholds.

A preset needs a signal for each of its roles: the experiment's only signal of the role's kind, or the one that the file
names. Steps of a published recipe for which there is no signal here are listed in its docstring.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.errors import InputError, unknown_message

FIVE_KB_BYTES = 5_000
"""The "5 KB" of LAION and COYO, in bytes: neither says whether a KB is 1,000 or 1,024 bytes."""


class PresetSignal(Protocol):
    """What a preset needs to know about a signal; `filters.signals.registry.SignalSpec` provides it."""

    @property
    def kind(self) -> str:
        """The signal's kind."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """The signal's settings, defaults included."""
        ...


PresetSignals = Mapping[str, PresetSignal]


Roles = Mapping[str, str]
"""The name of the signal in each role."""


PresetRecipe = Callable[[Roles, PresetSignals], dict[str, Any]]


@dataclass(frozen=True)
class Preset:
    """A recipe, where it is published, the kind of signal for each role, and the function that returns its rule."""

    source: str
    roles: Mapping[str, str]
    recipe: PresetRecipe

    @property
    def summary(self) -> str:
        """The first line of the recipe's docstring."""
        return (self.recipe.__doc__ or "").partition("\n")[0]

    def expanded(self, names: Mapping[Any, Any], signals: PresetSignals, where: str) -> dict[str, Any]:
        """Return the rule, in the experiment file's form, over the signals that `names` gives by role.

        A role without a name gets the only signal of its kind; raises InputError where there is none or more than one.
        """
        for role in names:
            if role not in self.roles:
                raise InputError(f"{where}.signals.{role}: {unknown_message('role', str(role), self.roles)}")
        bound = {role: str(names[role]) if role in names else "" for role in self.roles}
        for role, name in bound.items():
            bound[role] = name or _only_signal(role, self.roles[role], signals, where)
            if bound[role] not in signals:
                raise InputError(f"{where}.signals.{role}: {unknown_message('signal', bound[role], signals)}")
        return self.recipe(bound, signals)


def _only_signal(role: str, kind: str, signals: PresetSignals, where: str) -> str:
    matching = [name for name, signal in signals.items() if signal.kind == kind]
    if len(matching) == 1:
        return matching[0]
    found = f"{', '.join(matching)}; name one, as in signals: {{{role}: {matching[0]}}}" if matching else "none"
    declared = "" if matching else f" among {', '.join(signals) or 'none declared'}"
    raise InputError(f"{where}.preset: expected one signal of kind {kind}, found {found}{declared}")


def _caption(role: str, words: int, chars: int) -> dict[str, str]:
    """Return DataComp's caption checks: English, more than `words` words and more than `chars` characters."""
    return {
        "not_english": f"{role}.language <> 'en'",
        "caption_too_few_words": f"{role}.words <= {words}",
        "caption_too_short": f"{role}.chars <= {chars}",
    }


def datacomp_basic(roles: Roles, signals: PresetSignals) -> dict[str, Any]:
    """English, more than 2 words and 5 characters, short side of 200 pixels or more, aspect of 3 or less.

    DataComp identifies the language by fasttext (lid.176), here it is by py3langid; DataComp's words are separated by
    spaces, here they are runs of letters and digits.
    """
    image = roles["image"]
    sizes = {"image_too_small": f"{image}.short_side < 200", "image_too_long": f"{image}.aspect > 3"}
    return {"drop_when": _caption(roles["caption"], 2, 5) | sizes}


def datacomp_clip_l14_30(roles: Roles, signals: PresetSignals) -> dict[str, Any]:
    """The top 30 % by the similarity of OpenAI's CLIP ViT-L/14.

    DataComp keeps every pair whose value is at least that of rank floor(0.3 n), counted from 0; here exactly
    ceil(0.3 n) are kept. That the signal is computed by ViT-L/14 is up to the experiment.
    """
    return {"top_fraction": 0.3, "by": f"{roles['clip']}.similarity"}


def datacomp_image_based(roles: Roles, signals: PresetSignals) -> dict[str, Any]:
    """English, more than 1 word and 5 characters, and an image in a cluster that holds an image of the reference set.

    DataComp clusters the pool by OpenAI's CLIP ViT-L/14 into 100,000 clusters, with ImageNet-1k's training images as
    the reference; clusters, model and reference are settings of the signal here. Words and language: see
    datacomp_basic.
    """
    return {"all": [{"drop_when": _caption(roles["caption"], 1, 5)}, {"near_reference": roles["reference"]}]}


def datacomp_1b(roles: Roles, signals: PresetSignals) -> dict[str, Any]:
    """DataComp-1B: datacomp_image_based and datacomp_clip_l14_30 together, the 30 % being of the whole pool.

    The threshold is taken over the scores of the whole pool, not over the pairs that the image-based part keeps.
    """
    return {"all": [*datacomp_image_based(roles, signals)["all"], datacomp_clip_l14_30(roles, signals)]}


def laion_400m(roles: Roles, signals: PresetSignals) -> dict[str, Any]:
    """5 characters and 5 KB or more, and a similarity of 0.3 or more by OpenAI's CLIP ViT-B/32.

    Not included: removal of duplicates by URL and caption together (repeated rows are an outcome of ingest here), of
    unreachable hosts, and the filters for content with minors and animals.
    """
    return {"all": [{"drop_when": _laion_reasons(roles)}, _similarity_threshold(roles, 0.3)]}


def laion_2b_en(roles: Roles, signals: PresetSignals) -> dict[str, Any]:
    """English, 5 characters and 5 KB or more, and a similarity of 0.28 or more by OpenAI's CLIP ViT-B/32.

    LAION identifies the language by cld3, here it is by py3langid. Not included: removal of duplicates by URL, and of
    images of too high a resolution (which ingest refuses).
    """
    english = {"not_english": f"{roles['caption']}.language <> 'en'"}
    return {"all": [{"drop_when": _laion_reasons(roles) | english}, _similarity_threshold(roles, 0.28)]}


def _laion_reasons(roles: Roles) -> dict[str, str]:
    return {
        "caption_too_short": f"{roles['caption']}.chars < 5",
        "image_too_few_bytes": f"{roles['image']}.raw_bytes < {FIVE_KB_BYTES}",
    }


def _similarity_threshold(roles: Roles, least: float) -> dict[str, Any]:
    return {"threshold": {"at_least": least, "by": f"{roles['clip']}.similarity", "reason": "similarity_too_low"}}


def coyo_700m(roles: Roles, signals: PresetSignals) -> dict[str, Any]:
    """5 KB and 200 px or more, aspect of 3 or less; English, 3 to 256 words, 6 to 1000 characters, at most 10 times.

    COYO identifies the language by cld3, here it is by py3langid; COYO's words are separated by spaces. Not included:
    removal of NSFW scores above 0.5 (OpenNSFW2, GantMan), of captions without a noun or with words of profanity lists,
    of images of ImageNet, Flickr30k, COCO, CC3M and CC12M by pHash, and of all but one of the pairs that share pHash
    and caption.
    """
    caption, image, repeats = roles["caption"], roles["image"], roles["repeats"]
    reasons = {
        "image_too_few_bytes": f"{image}.raw_bytes < {FIVE_KB_BYTES}",
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


def metaclip_400m(roles: Roles, signals: PresetSignals) -> dict[str, Any]:
    """Of English captions that mention a concept of the list, those that balancing at t = 20,000 keeps.

    The list (MetaCLIP's has 500,000 entries of WordNet and Wikipedia) is a setting of the signal. t was chosen for
    their pool of 1.6 billion matched pairs; a smaller pool needs a smaller t. Not included: removal of duplicates by
    URL and of NSFW images.
    """
    english = {"drop_when": {"not_english": f"{roles['caption']}.language <> 'en'"}}
    return {"balanced": roles["concepts"], "t": 20_000, "among": english}


def semdedup(roles: Roles, signals: PresetSignals) -> dict[str, Any]:
    """Drops pairs more similar than 1 - epsilon to an earlier pair of their cluster; the least typical come first.

    Epsilon is the parameter that the paper varies; here it is 1 minus the signal's setting `cosine`.
    """
    semantic = roles["semantic"]
    max_cosine = float(signals[semantic].settings["cosine"])
    return {"threshold": {"at_most": max_cosine, "by": f"{semantic}.max_cosine", "reason": "semantic_duplicate"}}


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


def find_preset(name: Any, where: str) -> Preset:
    """Return a preset by its name; raise InputError that lists the presets where there is none of that name."""
    if not isinstance(name, str) or name not in PRESETS:
        raise InputError(f"{where}.preset: {unknown_message('preset', str(name), PRESETS)}")
    return PRESETS[name]


def describe_presets() -> str:
    """Return an entry for each preset: its name, what it keeps, where it is published, and the signals it needs."""
    lines = []
    for name, entry in PRESETS.items():
        lines.append(f"  {name}: {entry.summary}\n      {entry.source}; signals: {', '.join(entry.roles.values())}")
    return "\n".join(lines)
