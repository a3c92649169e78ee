"""The papers of an export: what lies beside its tars, made of what the ledger says of it and of the tars alone."""

from pipeline.export.croissant import croissant
from pipeline.export.data_card import data_card
from pipeline.export.dataset_facts import About, Tars
from pipeline.export.manifest import manifest, sizes


def papers(about: About, tars: Tars) -> dict[str, bytes]:
    """Return each paper by its name in the export's folder; the same tars make the same papers."""
    drawn = [{**tar, "factor": about["factors"].get(tar["tar"])} for tar in tars]
    return {
        "README.md": data_card(about, tars),
        "croissant.json": croissant(about, tars),
        "manifest.json": manifest(about["mixture"], about["job"], about["inputs"], drawn),
        "sizes.json": sizes(tars),
    }
