"""`README.md`: an export's data card, as Hugging Face reads it (https://huggingface.co/docs/hub/datasets-cards).

Texts from the experiment file are set as code or escaped, so that they cannot act as markup. The card holds no data of
single pairs.
"""

import re
from typing import Any

import yaml

from pipeline.export import dataset_facts as words
from pipeline.export.dataset_facts import DatasetFacts, TarRows
from pipeline.export.manifest import export_digest

_SIZE_CATEGORIES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M", 10**7: "1M<n<10M"}


_SIZE_CATEGORIES |= {10**8: "10M<n<100M", 10**9: "100M<n<1B", 10**10: "1B<n<10B", 10**11: "10B<n<100B"}


LICENCES = frozenset(
    {
        *("apache-2.0", "mit", "unknown", "other", "cc", "cc0-1.0", "pddl", "odbl", "odc-by", "gfdl"),
        *(f"cc-by{kind}-{version}" for kind in ("", "-sa", "-nc", "-nc-sa") for version in ("2.0", "3.0", "4.0")),
        *(f"cc-by{kind}-{version}" for kind in ("-nd", "-nc-nd") for version in ("3.0", "4.0")),
    }
)
"""Hugging Face's identifiers of licences; all others are `other`."""


def size_category(pairs: int) -> str:
    """Return Hugging Face's size category for a number of pairs."""
    return next((name for limit, name in _SIZE_CATEGORIES.items() if pairs < limit), "n>1T")


def licence_id(licences: list[str]) -> str:
    """Return Hugging Face's identifier of the licence that all sources share, else `other`."""
    names = {re.sub(r"[\s_]+", "-", licence.strip().lower()) for licence in licences}
    return name if len(names) == 1 and (name := names.pop()) in LICENCES else "other"


def escape_markdown(value: Any) -> str:
    """Return text escaped for Markdown, on one line."""
    flat = " ".join(str(value).split())
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~&:@-])", r"\\\1", flat)


def inline_code(value: Any) -> str:
    """Return text as inline code on one line, in a fence longer than any in it; bars, which end cells, are replaced."""
    flat = " ".join(str(value).split()).replace("|", "¦")
    backtick_runs = re.findall("`+", flat)
    fence, padding = "`" * (1 + max(map(len, backtick_runs), default=0)), " " if backtick_runs else ""
    return f"{fence}{padding}{flat}{padding}{fence}" if flat else ""


def _markdown_table(header: list[str], rows: list[list[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _front_matter(about: DatasetFacts, pairs: int) -> str:
    licences = words.licences(about)
    name = licence_id(licences)
    metadata: dict[str, Any] = {"license": name}
    if name == "other":
        metadata["license_name"] = "by-source"
    metadata |= {
        "pretty_name": f"{about['title']}: {about['mixture']}",
        "task_categories": ["zero-shot-image-classification"],
        "size_categories": [size_category(pairs)],
        "tags": ["webdataset", "image-text-pairs"],
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "*.tar"}]}],
    }
    return yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)


def _source_table(about: DatasetFacts) -> str:
    rows = []
    for name, source in about["sources"].items():
        texts = (source["licence"], source["terms"], source["snapshot"], source["citation"])
        rows.append([inline_code(name), source["pairs"], *map(escape_markdown, texts)])
    return _markdown_table(["source", "pairs", "licence", "terms", "snapshot", "to cite"], rows)


def _part_table(about: DatasetFacts) -> str:
    rows = [
        [
            inline_code(part["name"]),
            "" if part["share"] is None else f"{part['share']:g}",
            part["pairs"],
            part["distinct"],
        ]
        for part in about["parts"]
    ]
    return _markdown_table(["part", "share", "pairs", "of them distinct"], rows)


def _funnel_table(about: DatasetFacts) -> str:
    rows = []
    for funnel in about["funnel"]:
        for step in funnel["stages"]:
            reasons = ", ".join(f"{inline_code(reason)} {count}" for reason, count in step["dropped"].items())
            rows.append([inline_code(funnel["source"]), inline_code(step["stage"]), step["in"], step["kept"], reasons])
    return _markdown_table(["source", "stage", "in", "kept", "dropped, by reason"], rows)


def _filter_list(about: DatasetFacts) -> str:
    if not about["filters"]:
        return "None."
    signals = ", ".join(inline_code(words.describe_signal(signal)) for signal in about["signals"])
    rules = "\n".join(f"- {inline_code(rule_['name'])}: {inline_code(rule_['rule'])}" for rule_ in about["filters"])
    return f"{rules}\n\nThey read the signals {signals}." if signals else rules


def data_card(about: DatasetFacts, tars: TarRows) -> bytes:
    """Return `README.md`."""
    pairs = sum(tar["pairs"] for tar in tars)
    distinct = sum(part["distinct"] for part in about["parts"])
    size_bytes = sum(tar["bytes"] for tar in tars)
    weights = " A reader repeats parts by the factors in `manifest.json`." if about["factors"] else ""
    sections = {
        f"{escape_markdown(about['title'])}: {escape_markdown(about['mixture'])}": (
            f"{pairs} image-text pairs, {distinct} of them distinct, in {len(tars)} WebDataset tars of {size_bytes} "
            f"bytes.{weights} Each pair is `<uid>.jpg`, `<uid>.txt` and `<uid>.json`. `manifest.json` has each tar's "
            f"SHA-256 and the jobs and table versions it came from, `sizes.json` its pairs; `croissant.json` says "
            f"the same in Croissant 1.1. Digest of all tars: `{export_digest(tars)}`."
        ),
        "Sources": _source_table(about),
        "Parts": _part_table(about),
        "Collection": " ".join(
            describe(about) for describe in (words.describe_collection, words.describe_storing, words.describe_missing)
        ),
        "Funnel": _funnel_table(about),
        "Filters": _filter_list(about),
        "Known limits": "\n".join(f"- {limit}" for limit in words.known_limits(about))
        + f"\n- {words.describe_people(about)}",
        "Removal": words.describe_removal(escape_markdown(about["contact"])),
    }
    body = "\n\n## ".join(f"{title}\n\n{content}" for title, content in sections.items())
    return f"---\n{_front_matter(about, pairs)}---\n\n# {body}\n".encode()
