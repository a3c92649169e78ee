"""The base class and the shared types of the experiment file's sections."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
"""A name that the user chooses: lower-case letters, digits and underscores, a letter first."""


Count = Annotated[int, Field(ge=1)]


PositiveFloat = Annotated[float, Field(gt=0)]


class ConfigSection(BaseModel):
    """A section of the experiment file: frozen; unknown keys, NaN and infinity are refused.

    The docstring below each field is its description in the JSON Schema.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False, use_attribute_docstrings=True
    )
