"""What to start for a reference: the weights' folder and vLLM's arguments, or why vLLM cannot serve it and what can."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slim import checkpoint as checkpoints
from slim import files, models, precisions, support
from slim.config import ModelEntry, VllmOptions
from slim.engines import vllm_options
from slim.errors import UserError
from slim.precisions import Precision
from slim.provenance import Environment
from slim.serving import answers
from slim.serving.answers import Answer
from slim.serving.slim_generation import context_length
from slim.store.registered import Registered

_OPTIONS = "engine_options."


@dataclass(frozen=True)
class Target:
    """What vLLM is started on.

    Attributes:
        name: under which clients ask for it.
        title: what it is, for a person.
        configuration: ``<model>/<precision>@<engine>``; None where it was never measured.
        folder: of the weights.
        arguments: vLLM's engine arguments.
        answers: recorded when it was measured; empty where none were.
        notes: what a person should know, one line each.
    """

    name: str
    title: str
    configuration: str | None
    folder: Path
    arguments: Mapping[str, Any]
    answers: tuple[Answer, ...]
    notes: tuple[str, ...]


def resolve(
    found: Registered, environment: Environment, machine: support.Machine, *, trust_remote_code: bool = False, seed: int = 42
) -> Target:
    """Return what to start.

    Args:
        found: what the reference led to.
        environment: of the interpreter that vLLM runs in.
        machine: this one.
        trust_remote_code: run code that comes with the model.
        seed: of vLLM's sampling, where the run does not say.

    Raises:
        UserError: vLLM cannot serve it here, or the original weights are not those that were measured any more.
        StageError: the files of the checkpoint are not those that were written, or the original weights cannot be had.
        StoreError: they cannot be fetched.
    """
    precision = precisions.get(found.params["precision"])
    _refuse(found, precision, environment, machine)
    folder = found.folder(files.home() / "checkpoints")
    if folder is None:
        folder = _original(found.params, trust_remote_code)
    elif (folder / checkpoints.MANIFEST).exists():
        checkpoints.load(folder, verify=True)
    options = measured_options(found.params)
    arguments = vllm_options.arguments(
        options.model_dump(mode="json"),
        device=environment.hardware.device,
        dtype=precision.dtype,
        seed=int(found.params.get("seed", seed)),
        max_model_len=context_length(folder, options.max_model_len),
        trust_remote_code=trust_remote_code,
    )
    said = found.stage_artifact(answers.FILE, files.home() / "artifacts")
    run = found.configuration
    return Target(
        name=found.name,
        title=found.title,
        configuration=run.name if run else None,
        folder=folder,
        arguments=arguments,
        answers=tuple(answers.read(said)) if said is not None else (),
        notes=tuple(_notes(found, environment)),
    )


def measured_options(params: Mapping[str, str]) -> VllmOptions:
    """Return the engine options of a configuration's params; the defaults where it has none.

    Raises:
        UserError: they are not what this version knows.
    """
    values = {k.removeprefix(_OPTIONS): v for k, v in params.items() if k.startswith(_OPTIONS)}
    try:
        return VllmOptions.model_validate(values, strict=False)
    except ValueError as error:
        line = " ".join(str(error).split())[:200]
        raise UserError(f"the engine options that the run recorded are not understood: {line}") from None


def _refuse(found: Registered, precision: Precision, environment: Environment, machine: support.Machine) -> None:
    """Say why vLLM cannot serve it, and what can."""
    instead = (
        f"`mlflow models serve -m {found.uri} --env-manager local` serves it"
        if found.uri
        else "register it to serve it with MLflow"
    )
    if "vllm" not in precision.engines:
        raise UserError(f"{found.title}: vLLM does not serve precision {precision.name!r}, transformers does; {instead}")
    engine = found.params.get("engine", "vllm")
    if found.configuration is not None and engine != "vllm":
        raise UserError(f"{found.title} was measured on {engine}, which has no server of its own; {instead}")
    reasons = support.vllm_reasons(environment, machine) or support.cuda_reasons(environment)
    if not reasons and environment.hardware.device == "cuda":
        reasons = support.gpu_limits(precision, "vllm", environment.hardware.compute_capability)[0]
    elif not reasons:
        reasons = support.cpu_limits(precision, "vllm", machine)[0]
    if reasons:
        raise UserError(f"{found.title}: vLLM does not run it here: {'; '.join(reasons)}; {instead}")


def _original(params: Mapping[str, str], trust_remote_code: bool) -> Path:
    """The original weights' directory, those that were measured."""
    reference, revision = params["model"], params.get("revision")
    is_digest = revision is not None and revision.startswith("sha256:")
    entry = ModelEntry(id=reference, revision=None if is_digest else revision, trust_remote_code=trust_remote_code)
    source = models.resolve(entry)
    if is_digest and source.fingerprint != revision:
        raise UserError(f"the weights of {reference!r} are not those that were measured: {source.fingerprint}, not {revision}")
    return models.materialize(source)


def _notes(found: Registered, environment: Environment) -> list[str]:
    """What differs from the measurement."""
    if found.configuration is None:
        return ["no finished configuration measured this checkpoint on vLLM, so vLLM gets the platform's default options"]
    measured = found.params.get("hardware")
    here = environment.hardware.label
    return [f"measured on {measured}, served on {here}"] if measured and measured != here else []
