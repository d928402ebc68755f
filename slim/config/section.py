"""What all sections of a sweep file have in common."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

_LONGEST_NAME = 255
"""Bytes of the name of a file or directory."""


def _printable(value: str) -> str:
    """Names end up in paths, terminals, logs and pages."""
    if not value.isprintable():
        raise ValueError(f"{value!r} holds a control character or an invisible one; allowed: letters, digits, signs and blanks")
    return value


def _nameable(value: str) -> str:
    """What no file can be called would be an error of whoever looks for it."""
    if any(len(part.encode()) > _LONGEST_NAME for part in value.split("/")):
        raise ValueError(f"a part of it is longer than {_LONGEST_NAME} bytes, got {value[:60]!r}...")
    return value


Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(_printable)]
Place = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=1000),
    AfterValidator(_printable),
    AfterValidator(_nameable),
]
"""A path, or what else may stand in the place of one."""
Text = Annotated[str, StringConstraints(max_length=100_000)]
Positive = Annotated[int, Field(gt=0, le=1_000_000_000)]
Seconds = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """Base of all sections: unknown keys are refused, values are not coerced into another type, records do not change.

    Numbers are finite.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def default(section: Section, field: str) -> Any:
    """Return what a field has when a sweep file does not say it."""
    return type(section).model_fields[field].get_default(call_default_factory=True)
