"""What every section of the experiment file is made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


Count = Annotated[int, Field(ge=1)]


Share = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A part of the experiment file: frozen, and no key but its own."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)
