"""Which of a study's recommendations pass the gates."""

import re
from dataclasses import dataclass
from typing import Any

from slim.errors import ConfigError, NotStoredError, UserError
from slim.registry import gates, original, subject
from slim.registry.subject import Subject
from slim.registry.versions import Registry
from slim.registry.words import VERSION, Choice, Refused
from slim.store import TAG, Store


@dataclass(frozen=True)
class Candidate:
    """A configuration that is to be registered.

    Attributes:
        choice: what it is recommended for.
        subject: the configuration.
        model_id: LoggedModel with its files; None for original weights that are not in the store yet.
        forced: reasons against it that were passed by force.
        name: of the registered model.
        found: MLflow's version of it; None where there is none yet.
    """

    choice: Choice
    subject: Subject
    model_id: str | None
    forced: tuple[str, ...]
    name: str
    found: Any | None = None


def judge(store: Store, registry: Registry, choice: Choice, *, name: str | None, force: bool) -> Candidate | Refused:
    """Hold a recommended configuration against the gates.

    Args:
        store: where it lies.
        registry: where it shall go.
        choice: the configuration.
        name: of the registered model; None is its base model's default.
        force: let pass what can be passed by force.

    Raises:
        StoreError: the store cannot be read.
    """

    def refuse(*reasons: str, final: bool) -> Refused:
        return Refused(configuration, choice.deployments, reasons, final)

    configuration = choice.row.run_id
    try:
        found = subject.load(store, choice.row, choice.baseline)
        configuration = found.name
        chosen_name = name or default_name(found.model_name)
        versions = registry.versions(chosen_name)
        same = next((v for v in versions if v.tags.get(VERSION.CONFIGURATION_RUN) == found.run.run_id), None)
        model_id, key = _files(store, found)
        if same is not None:
            # What the version points to is what others load.
            model_id = same.tags.get(VERSION.CHECKPOINT, model_id)
    except (UserError, NotStoredError) as error:
        return refuse(str(error), final=True)
    reasons = gates.doubts(found)
    if model_id is not None:
        with gates.fetched(store, model_id) as directory:
            if directory is None:
                return refuse("its checkpoint is not in the store any more", final=True)
            changed = gates.mismatch(directory, key)
        reasons += [changed] if changed is not None else []
    if reasons and not force:
        return refuse(*reasons, final=False)
    return Candidate(choice, found, model_id, tuple(reasons), chosen_name, same)


def default_name(model: str) -> str:
    """Return the name of the registered model of a base model, by its short name."""
    return f"slim-{re.sub(r'[^A-Za-z0-9._-]+', '-', model)}"


def _files(store: Store, found: Subject) -> tuple[str | None, str]:
    """The LoggedModel with a configuration's files and the key that its manifest must have.

    Raises:
        UserError: the files are nowhere.
    """
    if not found.precision.is_quantized:
        model_id = original.find(store, found)
        if model_id is None:
            # Made sure of before anything is written.
            original.source(found)
        return model_id, found.fingerprint
    made = found.quantize
    if made is None or not made.model_ids:
        raise ConfigError("its checkpoint is not in the store")
    return made.model_ids[0], made.tags.get(TAG.KEY, "")
