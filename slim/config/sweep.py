"""The sweep file as a whole: reading it, replacing single fields, and what is wrong with it in one line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from slim import precisions
from slim.config import reading
from slim.config.profile import ProfileConfig
from slim.config.section import Name, Section
from slim.config.sections import (
    ComparisonConfig,
    EnginesConfig,
    EvaluateConfig,
    ExecutorConfig,
    InterpretersConfig,
    ModelEntry,
    PrecisionEntry,
    QuantizeConfig,
    TimeoutsConfig,
)
from slim.errors import ConfigError

_SHOWN = 120
"""Characters of a wrong value that an error repeats."""


class SweepConfig(Section):
    """A sweep: models x precisions, and how each is quantized, evaluated and profiled.

    Attributes:
        name: of the sweep.
        experiment: MLflow experiment.
        seed: of everything random.
        models: each an entry or just its id.
        precisions: each an entry, ``<precision>`` or ``<precision>@<engine>``.
        quantize: how checkpoints are made.
        evaluate: accuracy; None skips the stage.
        profile: efficiency; None skips the stage.
        comparison: of a configuration's answers with its baseline's.
        engines: engine options.
        repeats: times each configuration is profiled, interleaved.
        on_failure: ``continue`` with the other configurations, or ``stop``.
        interpreters: Python of the workers.
        timeouts: of the workers.
        executor: where workers run, or just its name.
    """

    name: Name = "sweep"
    experiment: Name = "slim"
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 42
    models: tuple[ModelEntry, ...]
    precisions: tuple[PrecisionEntry, ...]
    quantize: QuantizeConfig = QuantizeConfig()
    evaluate: EvaluateConfig | None = EvaluateConfig()
    profile: ProfileConfig | None = ProfileConfig()
    comparison: ComparisonConfig = ComparisonConfig()
    engines: EnginesConfig = EnginesConfig()
    repeats: Annotated[int, Field(gt=0, le=1000)] = 3
    on_failure: Literal["continue", "stop"] = "continue"
    interpreters: InterpretersConfig = InterpretersConfig()
    timeouts: TimeoutsConfig = TimeoutsConfig()
    executor: ExecutorConfig = ExecutorConfig()

    @field_validator("executor", mode="before")
    @classmethod
    def _executor_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @field_validator("models", mode="before")
    @classmethod
    def _model_ids(cls, value: Any) -> Any:
        return tuple({"id": v} if isinstance(v, str) else v for v in value) if isinstance(value, list | tuple) else value

    @field_validator("precisions", mode="before")
    @classmethod
    def _precision_names(cls, value: Any) -> Any:
        return tuple(parse_precision(v) if isinstance(v, str) else v for v in value) if isinstance(value, list | tuple) else value

    @field_validator("experiment")
    @classmethod
    def _no_directory(cls, value: str) -> str:
        if value in (".", ".."):
            raise ValueError(f"{value!r} is no name of an experiment")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.models:
            raise ValueError("models is empty; name at least one")
        if not self.precisions:
            raise ValueError("precisions is empty; name at least one")
        pairs = [precisions.serve(p.precision, p.engine) for p in self.precisions]
        repeated = sorted({f"{p.name}@{e}" for p, e in pairs if pairs.count((p, e)) > 1})
        if repeated:
            raise ValueError(f"precisions names one twice: {', '.join(repeated)}")
        entries = [(m.id, m.revision) for m in self.models]
        if len(set(entries)) != len(entries):
            raise ValueError(
                f"models names one twice: {', '.join(sorted({m for m, _ in entries if [i for i, _ in entries].count(m) > 1}))}"
            )
        spread, gpus = self.spread, self.executor.gpus
        # One and none are the same to a CPU.
        if gpus is not None and max(gpus, 1) < spread:
            raise ValueError(
                f"executor.gpus {gpus} is below engines.vllm.tensor_parallel_size {spread}; allowed: {spread} or more, or null"
            )
        if self.profile is not None:
            need = self.profile.input_tokens + self.profile.output_tokens
            for engine in {e for _, e in pairs}:
                have = getattr(self.engines, engine).max_model_len
                if need > have:
                    raise ValueError(
                        f"profile.input_tokens + profile.output_tokens is {need}, beyond engines.{engine}.max_model_len {have}"
                    )
            at_once, energy = self.engines.vllm.max_num_seqs, self.profile.energy
            least = {"profile.concurrency": min(self.profile.concurrency)}
            if energy is not None and energy.concurrency is not None:
                least["profile.energy.concurrency"] = energy.concurrency
            for name, value in least.items():
                if value > at_once and self.is_on_vllm:
                    raise ValueError(f"{name} {value} is beyond engines.vllm.max_num_seqs {at_once}, so vLLM would never run it")
        return self

    @property
    def is_on_vllm(self) -> bool:
        """Whether any configuration is served by vLLM."""
        return any(precisions.serve(p.precision, p.engine)[1] == "vllm" for p in self.precisions)

    @property
    def spread(self) -> int:
        """GPUs that a configuration is measured on: every one of a sweep on as many, so that they can be compared."""
        return self.engines.vllm.tensor_parallel_size if self.is_on_vllm else 1

    @classmethod
    def parse(cls, values: Mapping[str, Any], source: str = "sweep") -> Self:
        """Return the sweep that ``values`` describe.

        Args:
            values: what a sweep file holds.
            source: named in an error.

        Raises:
            ConfigError: one line that names the field, the value and what is allowed.
        """
        try:
            return cls.model_validate(_tuples(dict(values)))
        except ValidationError as error:
            raise ConfigError(f"{source}: {_first_line(error)}") from None

    @classmethod
    def load(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> Self:
        """Read a sweep file.

        Args:
            path: YAML file.
            overrides: values by dotted field (``profile.requests``) that replace the file's.

        Raises:
            ConfigError: no such file, not YAML, or not a sweep.
        """
        try:
            values = reading.parse(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"sweep file {str(path)!r} cannot be read: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"sweep file {str(path)!r} is not YAML in UTF-8: {error}") from None
        except ConfigError as error:
            raise ConfigError(f"sweep file {str(path)!r} {error}") from None
        if not isinstance(values, dict):
            raise ConfigError(f"sweep file {str(path)!r} must hold a mapping of fields, not {type(values).__name__}")
        return cls.build(overrides or {}, values, source=str(path))

    @classmethod
    def build(cls, overrides: Mapping[str, Any], base: Mapping[str, Any] | None = None, source: str = "options") -> Self:
        """Return the sweep that ``base`` describes after some fields are replaced.

        Args:
            overrides: values by dotted field (``profile.requests``).
            base: what a sweep file holds; None starts from the defaults.
            source: named in an error.

        Raises:
            ConfigError: as `parse`.
        """
        values = dict(base or {})
        if isinstance(values.get("executor"), str) and any(field.startswith("executor.") for field in overrides):
            values["executor"] = {"name": values["executor"]}
        for field, value in overrides.items():
            values = _replaced(values, field.split("."), value)
        return cls.parse(values, source)


def parse_precision(text: str) -> dict[str, str]:
    """Return the entry that ``<precision>`` or ``<precision>@<engine>`` stands for."""
    precision, at, engine = text.partition("@")
    return {"precision": precision, "engine": engine} if at else {"precision": precision}


def _replaced(values: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    head, *rest = path
    if not rest:
        return {**values, head: value}
    inner = values.get(head)
    return {**values, head: _replaced(inner if isinstance(inner, dict) else {}, rest, value)}


def _tuples(value: Any) -> Any:
    """Lists as tuples throughout, since records are frozen and validation is strict; whole numbers stay whole."""
    if isinstance(value, dict):
        return {key: _tuples(inner) for key, inner in value.items()}
    return tuple(_tuples(inner) for inner in value) if isinstance(value, list) else value


def _first_line(error: ValidationError) -> str:
    """The first problem as one line: field, what is wrong, what was given."""
    problem = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in problem["loc"]) or "file"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] in ("extra_forbidden", "invalid_key"):
        return f"{field}: unknown key; allowed: {', '.join(_allowed(problem['loc']))}"
    if problem["type"] == "missing":
        return f"{field}: missing"
    given = "" if isinstance(problem["input"], dict) or problem["type"] == "value_error" else f", got {_shown(problem['input'])}"
    more = len(error.errors()) - 1
    return f"{field}: {message}{given}" + (f" (and {more} more)" if more else "")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _allowed(location: tuple[int | str, ...]) -> list[str]:
    """The keys of the section that holds ``location``."""
    from typing import get_args

    model: Any = SweepConfig
    for part in location[:-1]:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        stack = [annotation]
        while stack:
            candidate = stack.pop()
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
                break
            stack.extend(get_args(candidate))
    return sorted(model.model_fields)
