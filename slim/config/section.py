"""What all sections of a sweep file have in common."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints


def _printable(value: str) -> str:
    """Names end up in paths, terminals, logs and pages."""
    if not value.isprintable():
        raise ValueError(f"{value!r} holds a control character or an invisible one; allowed: letters, digits, signs and blanks")
    return value


Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(_printable)]
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
