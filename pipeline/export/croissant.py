"""`croissant.json`: an export as a Croissant 1.1 dataset with the vocabulary of Responsible AI.

Formats: https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html and croissant-rai-spec.html; sources are
named by PROV-O (https://www.w3.org/TR/prov-o/). mlcroissant 1.1.1 reads the record sets `images` and `captions`;
`pairs` is the join of the two, which the format can express for files in tars but that reader does not support.
"""

import json
import re
from typing import Any

from pipeline.export import dataset_facts as words
from pipeline.export.dataset_facts import DatasetFacts, TarRows
from pipeline.export.manifest import export_digest

CROISSANT, RAI = "http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"


_CROISSANT_TERMS = (
    *("arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileProperty"),
    *("fileObject", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5"),
    *("parentField", "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate", "separator"),
    *("source", "subField", "transform"),
)


CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "prov": "http://www.w3.org/ns/prov#",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{name: f"cr:{name}" for name in _CROISSANT_TERMS},
}
"""The JSON-LD context of the format, as in its specification."""


def _file_set(suffix: str, encoding: str, tars: TarRows) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{suffix}-files",
        "name": f"{suffix}-files",
        "containedIn": [{"@id": tar["tar"]} for tar in tars],
        "includes": f"*.{suffix}",
        "encodingFormat": encoding,
    }


def _field(path: str, data_type: str, description: str, source: dict[str, Any], **properties: Any) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": path,
        "name": path.rpartition("/")[2],
        "description": description,
        "dataType": data_type,
        "source": source,
        **properties,
    }


def _record_set(name: str, description: str, fields: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": description,
        "key": {"@id": f"{name}/uid"},
        "field": fields,
    }


def _member_source(suffix: str, what: str) -> dict[str, Any]:
    """Return the source of a field: the content of a tar member, or the uid in its file name."""
    source: dict[str, Any] = {"fileSet": {"@id": f"{suffix}-files"}, "extract": {"fileProperty": what}}
    return source | ({"transform": {"regex": rf"([0-9a-f]{{32}})\.{suffix}"}} if what == "filename" else {})


def _field_source(path: str) -> dict[str, Any]:
    return {"field": {"@id": path}}


def _record_sets() -> list[dict[str, Any]]:
    uid, image, caption = "The pair's uid: 32 hex digits.", "The image, a JPEG.", "The caption, UTF-8."
    images = [
        _field("images/uid", "sc:Text", uid, _member_source("jpg", "filename")),
        _field("images/image", "sc:ImageObject", image, _member_source("jpg", "content")),
    ]
    captions = [
        _field("captions/uid", "sc:Text", uid, _member_source("txt", "filename")),
        _field("captions/caption", "sc:Text", caption, _member_source("txt", "content")),
    ]
    pairs = [
        _field("pairs/uid", "sc:Text", uid, _field_source("images/uid"), references=_field_source("captions/uid")),
        _field("pairs/image", "sc:ImageObject", image, _field_source("images/image")),
        _field("pairs/caption", "sc:Text", caption, _field_source("captions/caption")),
    ]
    return [
        _record_set("images", "The images.", images),
        _record_set("captions", "The captions.", captions),
        _record_set("pairs", "The images, each with its caption.", pairs),
    ]


def _rai_properties(about: DatasetFacts) -> dict[str, Any]:
    """Return the properties of the Responsible AI vocabulary; those without a value are left out."""
    filters = [f"{filter_['name']}: {filter_['rule']}" for filter_ in about["filters"]]
    properties = {
        "rai:dataCollection": words.describe_collection(about),
        "rai:dataCollectionType": ["Secondary Data analysis", "Software Collection"],
        "rai:dataCollectionMissingData": words.describe_missing(about),
        "rai:dataPreprocessingProtocol": [words.describe_storing(about), *filters],
        "rai:machineAnnotationTools": [words.describe_signal(signal) for signal in about["signals"]],
        "rai:dataLimitations": words.known_limits(about),
        "rai:dataUseCases": ["Training of contrastive image-text models."],
        "rai:personalSensitiveInformation": [words.describe_people(about)],
        "rai:dataReleaseMaintenancePlan": words.describe_removal(about["contact"]),
    }
    return {key: value for key, value in properties.items() if value}


def _source_entities(about: DatasetFacts) -> list[dict[str, str]]:
    entities = []
    for name, source in about["sources"].items():
        properties = {"name": name, "license": source["licence"], "version": source["snapshot"]}
        properties |= {"usageInfo": source["terms"], "citation": source["citation"]}
        entities.append({"@type": "prov:Entity", **{key: value for key, value in properties.items() if value}})
    return entities


def croissant(about: DatasetFacts, tars: TarRows) -> bytes:
    """Return `croissant.json`."""
    ordered = sorted(tars, key=lambda tar: tar["tar"])
    files = [
        {
            "@type": "cr:FileObject",
            "@id": tar["tar"],
            "name": tar["tar"],
            "contentUrl": tar["tar"],
            "contentSize": f"{tar['bytes']} B",
            "encodingFormat": "application/x-tar",
            "sha256": tar["sha256"],
        }
        for tar in ordered
    ]
    pairs = sum(tar["pairs"] for tar in tars)
    body = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": re.sub(r"[^A-Za-z0-9_.-]+", "-", about["mixture"]),
        "description": f"{about['title']}: {pairs} image-text pairs as WebDataset tars.",
        "conformsTo": [CROISSANT, RAI],
        "version": f"1.0.0+{export_digest(ordered)[:12]}",
        "license": words.licences(about),
        "keywords": ["image-text pairs", "webdataset"],
        "prov:wasDerivedFrom": _source_entities(about),
        **({"citeAs": "; ".join(cited)} if (cited := words.citations(about)) else {}),
        **_rai_properties(about),
        "distribution": [
            *files,
            _file_set("jpg", "image/jpeg", ordered),
            _file_set("txt", "text/plain", ordered),
            _file_set("json", "application/json", ordered),
        ],
        "recordSet": _record_sets(),
    }
    return (json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
