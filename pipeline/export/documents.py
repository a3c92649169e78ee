"""The documents of an export: the files beside its tars, made from its facts in the ledger and its tars alone."""

from pipeline.export.croissant import croissant
from pipeline.export.data_card import data_card
from pipeline.export.dataset_facts import DatasetFacts, TarRows
from pipeline.export.manifest import manifest, sizes_json


def render_documents(about: DatasetFacts, tars: TarRows) -> dict[str, bytes]:
    """Return the documents by their names in the export's folder; the same input gives the same bytes."""
    tars_with_factors = [{**tar, "factor": about["factors"].get(tar["tar"])} for tar in tars]
    return {
        "README.md": data_card(about, tars),
        "croissant.json": croissant(about, tars),
        "manifest.json": manifest(about["mixture"], about["job"], about["inputs"], tars_with_factors),
        "sizes.json": sizes_json(tars),
    }
