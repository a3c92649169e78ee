"""`README.md`: an export's data card, as Hugging Face reads it (https://huggingface.co/docs/hub/datasets-cards).

Texts that come from the experiment file are set as code or escaped, so that they can be no markup; nothing of a pair
is in it.
"""

import re
from typing import Any

import yaml

from pipeline.export import dataset_facts as words
from pipeline.export.dataset_facts import About, Tars
from pipeline.export.manifest import export_digest

_SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M", 10**7: "1M<n<10M"}


_SIZES |= {10**8: "10M<n<100M", 10**9: "100M<n<1B", 10**10: "1B<n<10B", 10**11: "10B<n<100B"}


LICENCES = frozenset(
    {
        *("apache-2.0", "mit", "unknown", "other", "cc", "cc0-1.0", "pddl", "odbl", "odc-by", "gfdl"),
        *(f"cc-by{kind}-{version}" for kind in ("", "-sa", "-nc", "-nc-sa") for version in ("2.0", "3.0", "4.0")),
        *(f"cc-by{kind}-{version}" for kind in ("-nd", "-nc-nd") for version in ("3.0", "4.0")),
    }
)
"""Names of licences by which Hugging Face knows them; others are `other`."""


def size_category(pairs: int) -> str:
    """Return Hugging Face's name of a size."""
    return next((name for most, name in _SIZES.items() if pairs < most), "n>1T")


def licence_id(licences: list[str]) -> str:
    """Return the one licence that all sources have, by Hugging Face's name, else `other`."""
    names = {re.sub(r"[\s_]+", "-", licence.strip().lower()) for licence in licences}
    return name if len(names) == 1 and (name := names.pop()) in LICENCES else "other"


def text(value: Any) -> str:
    """Return text that stands for itself in Markdown, on one line."""
    flat = " ".join(str(value).split())
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~&:@-])", r"\\\1", flat)


def code(value: Any) -> str:
    """Return text as code on one line, in a fence longer than any that it holds; a bar would end a table's cell."""
    flat = " ".join(str(value).split()).replace("|", "¦")
    runs = re.findall("`+", flat)
    fence, pad = "`" * (1 + max(map(len, runs), default=0)), " " if runs else ""
    return f"{fence}{pad}{flat}{pad}{fence}" if flat else ""


def _table(head: list[str], rows: list[list[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _header(about: About, pairs: int) -> str:
    licences = words.licences(about)
    name = licence_id(licences)
    said: dict[str, Any] = {"license": name}
    if name == "other":
        said["license_name"] = "by-source"
    said |= {
        "pretty_name": f"{about['title']}: {about['mixture']}",
        "task_categories": ["zero-shot-image-classification"],
        "size_categories": [size_category(pairs)],
        "tags": ["webdataset", "image-text-pairs"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "*.tar"}]}],
    }
    return yaml.safe_dump(said, sort_keys=False, allow_unicode=True)


def _sources(about: About) -> str:
    rows = []
    for name, one in about["sources"].items():
        told = (one["licence"], one["terms"], one["snapshot"], one["citation"])
        rows.append([code(name), one["pairs"], *map(text, told)])
    return _table(["source", "pairs", "licence", "terms", "snapshot", "to cite"], rows)


def _parts(about: About) -> str:
    rows = [
        [code(one["name"]), "" if one["share"] is None else f"{one['share']:g}", one["pairs"], one["distinct"]]
        for one in about["parts"]
    ]
    return _table(["part", "share", "pairs", "of them distinct"], rows)


def _funnel(about: About) -> str:
    rows = []
    for one in about["funnel"]:
        for step in one["stages"]:
            reasons = ", ".join(f"{code(reason)} {count}" for reason, count in step["dropped"].items())
            rows.append([code(one["source"]), code(step["stage"]), step["in"], step["kept"], reasons])
    return _table(["source", "stage", "in", "kept", "dropped, by reason"], rows)


def _filters(about: About) -> str:
    if not about["filters"]:
        return "None."
    signals = ", ".join(code(words.told_signal(one)) for one in about["signals"])
    rules = "\n".join(f"- {code(one['name'])}: {code(one['rule'])}" for one in about["filters"])
    return f"{rules}\n\nThey read the signals {signals}." if signals else rules


def data_card(about: About, tars: Tars) -> bytes:
    """Return `README.md`."""
    pairs = sum(tar["pairs"] for tar in tars)
    distinct = sum(one["distinct"] for one in about["parts"])
    size = sum(tar["bytes"] for tar in tars)
    weights = " A reader repeats parts by the factors in `manifest.json`." if about["factors"] else ""
    sections = {
        f"{text(about['title'])}: {text(about['mixture'])}": (
            f"{pairs} image-text pairs, {distinct} of them distinct, in {len(tars)} WebDataset tars of {size} bytes."
            f"{weights} Each pair is `<uid>.jpg`, `<uid>.txt` and `<uid>.json`. `manifest.json` has each tar's "
            f"SHA-256 and the jobs and table versions it came from, `sizes.json` its pairs; `croissant.json` says "
            f"the same in Croissant 1.1. Digest of all tars: `{export_digest(tars)}`."
        ),
        "Sources": _sources(about),
        "Parts": _parts(about),
        "Collection": f"{words.collection(about)} {words.storing(about)} {words.missing(about)}",
        "Funnel": _funnel(about),
        "Filters": _filters(about),
        "Known limits": "\n".join(f"- {limit}" for limit in words.limits(about)) + f"\n- {words.people(about)}",
        "Removal": words.removal(text(about["contact"])),
    }
    body = "\n\n## ".join(f"{title}\n\n{said}" for title, said in sections.items())
    return f"---\n{_header(about, pairs)}---\n\n# {body}\n".encode()
