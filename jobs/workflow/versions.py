"""Versions that are recorded with every job: of Cuvée, and of the packages that shape results."""

from importlib.metadata import PackageNotFoundError, version

from pipeline.core.code_version import archive_digest

RECORDED_PACKAGES = (
    "pyspark",
    "webdataset",
    "img2dataset",
    "open_clip_torch",
    "pyarrow",
    "faiss-cpu",
    "torch",
    "deltalake",
    "pdqhash",
)
"""Packages whose versions shape results."""


def installed_version(name: str) -> str | None:
    """Return the version of an installed distribution, None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def cuvee_version() -> str:
    """Return Cuvée's own version; "unknown" where it runs from a zip, whose SHA-256 is recorded instead."""
    return installed_version("cuvee") or "unknown"


def recorded_versions() -> dict[str, str]:
    """Return what is recorded with every job: Cuvée's version, those of `RECORDED_PACKAGES` that are installed, and the
    SHA-256 of the zip where Cuvée runs from one.

    The code that a result depends on is recorded in its job's own `code`, by which a run resumes wherever it starts.
    """
    packages = {name: installed for name in RECORDED_PACKAGES if (installed := installed_version(name)) is not None}
    archive = archive_digest()
    return {"cuvee": cuvee_version(), **packages} | ({"cuvee.zip": archive} if archive else {})
