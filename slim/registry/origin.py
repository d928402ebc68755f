"""Which model a checkpoint was made from, and under which licence, as far as the source itself says so."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from slim import gguf, hub, models
from slim.errors import SlimError, UserError
from slim.registry.subject import Subject

_HUB = "https://huggingface.co/"
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Origin:
    """The model that a checkpoint was made from.

    Attributes:
        title: for a person.
        repository: id on the Hub; None where the source names none.
        licence: identifier as the source states it, such as ``apache-2.0``; None when it states none or is out of reach.
        remark: a sentence that a reader has to know; empty for none.
    """

    title: str
    repository: str | None
    licence: str | None
    remark: str = ""


def trace(subject: Subject, known_licence: str | None = None) -> Origin:
    """Find out about a configuration's model. The source may be gone or out of reach; then what it says is unknown.

    Args:
        subject: the configuration.
        known_licence: what was found earlier, for when it cannot be looked up now.
    """
    reference = subject.run.params["model"]
    try:
        found = models.resolve(subject.entry)
    except (SlimError, UserError):
        # An id that no longer leads anywhere still has the form of a Hub id or not; a path has not.
        is_id = hub.is_id(reference) and subject.fingerprint.startswith("hub:")
        return Origin(reference, reference if is_id else None, known_licence)
    match found.kind:
        case "hub":
            said = _hub_card(reference, found.revision)
            return Origin(reference, reference, _licence(said) or known_licence)
        case "local":
            said = _front_matter(found.path / "README.md") if found.path is not None else {}
            base = said.get("base_model")
            named = base if isinstance(base, str) and hub.is_id(base) else None
            return Origin(found.short_name, named, _licence(said) or known_licence)
        case "synthetic":
            return Origin(reference, None, known_licence, "The weights are random: only speed, memory and energy mean anything.")
        case _:
            return _gguf(found.path, found.short_name, known_licence)


def _gguf(path: Path | None, short_name: str, known_licence: str | None) -> Origin:
    """What a GGUF file's header says."""
    values = gguf.read_header(path).values if path is not None else {}
    url = str(values.get("general.base_model.0.repo_url", ""))
    repository = url.removeprefix(_HUB).strip("/")
    # Not `general.name`: converters put the name of a training run there.
    organisation = values.get("general.organization")
    return Origin(
        title=f"{short_name} of {organisation}" if organisation else short_name,
        repository=repository if url.startswith(_HUB) and hub.is_id(repository) else None,
        licence=_licence({"license": values.get("general.license")}) or known_licence,
        remark="The source is a GGUF file: its weights had been quantized once before, and were converted to bfloat16.",
    )


def _licence(said: Mapping[str, Any]) -> str | None:
    licence = said.get("license")
    return licence.strip() if isinstance(licence, str) and licence.strip() else None


def _hub_card(repository: str, revision: str | None) -> Mapping[str, Any]:
    """The metadata of a model's card on the Hub; empty when it is out of reach."""
    from huggingface_hub import HfApi

    try:
        card = HfApi().model_info(repository, revision=revision, timeout=_TIMEOUT_S).card_data
    except Exception:  # noqa: BLE001 - without a network nothing is known, and that is all it means
        return {}
    return {"license": card.get("license")} if card is not None else {}


def _front_matter(file: Path) -> Mapping[str, Any]:
    """The YAML at the head of a model card; empty when there is none."""
    try:
        text = file.read_text(encoding="utf-8")
        head = text.split("---\n", 2)[1] if text.startswith("---\n") else ""
        values = yaml.safe_load(head)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, IndexError):
        return {}
    return values if isinstance(values, dict) else {}
