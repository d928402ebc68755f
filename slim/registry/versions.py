"""Models, versions and aliases in MLflow's registry, each call undone when it cannot be finished."""

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from slim.errors import ConfigError
from slim.registry.words import STUDY_OF_ALIAS, VERSION
from slim.store import Store
from slim.store.connection import translated

_PAGE = 200
_ABSENT = ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND")


class Registry:
    """The model registry beside a store.

    Args:
        store: whose.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._client = store.client
        self._undo: list[Callable[[], object]] = []

    def model(self, name: str) -> Any | None:
        """Return MLflow's registered model of that name; None where there is none."""
        with translated(f"looking up the registered model {name!r}"):
            try:
                return self._client.get_registered_model(name)
            except MlflowException as error:
                if error.error_code in _ABSENT:
                    return None
                raise

    def check_name(self, name: str, base_model: str) -> None:
        """Refuse a name that MLflow does not take, or that another base model or program uses.

        Raises:
            ConfigError: says which.
        """
        # MLflow's rule, told before anything is written.
        if not name.strip() or any(sign in name for sign in "/:") or len(name) > 250 or name.isspace():
            raise ConfigError(f"name {name!r} is no name of a registered model; allowed: up to 250 characters without / and :")
        found = self.model(name)
        if found is None:
            return
        owner = found.tags.get(VERSION.MODEL)
        if owner is None and self.versions(name):
            raise ConfigError(f"the registered model {name!r} is not of this program; give another name")
        self._check_owner(name, owner, base_model)

    def _check_owner(self, name: str, owner: str | None, base_model: str) -> None:
        if owner is not None and owner != base_model:
            raise ConfigError(f"the registered model {name!r} is of {owner!r}, not of {base_model!r}; give another name")

    def versions(self, name: str) -> list[Any]:
        """Return MLflow's versions of a registered model with their tags, oldest first."""
        with translated(f"reading the versions of {name!r}"):
            found: list[Any] = []
            token = None
            while True:
                quoted = name.replace("'", "\\'")
                page = self._client.search_model_versions(f"name = '{quoted}'", max_results=_PAGE, page_token=token)
                found += page
                token = page.token
                if not token:
                    return sorted(found, key=lambda version: int(version.version))

    def aliases(self, name: str) -> dict[str, int]:
        """Return the versions that a registered model's aliases point to."""
        found = self.model(name)
        return {alias: int(version) for alias, version in found.aliases.items()} if found is not None else {}

    @contextlib.contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Undo what was written inside the block when it does not end well, newest first, as far as the store still answers."""
        self._undo.clear()
        try:
            yield
        except BaseException:
            for undo in reversed(self._undo):
                # The first error is the one to report, and the store may be away.
                with contextlib.suppress(Exception):
                    undo()
            raise
        finally:
            self._undo.clear()

    def ensure_model(self, name: str, description: str, tags: Mapping[str, str]) -> None:
        """Make a registered model unless it is there.

        Raises:
            ConfigError: it is of another base model, which was registered meanwhile.
        """
        found = self.model(name)
        if found is not None:
            self._check_owner(name, found.tags.get(VERSION.MODEL), tags[VERSION.MODEL])
            # One that was made empty by hand, or left by a process that was killed between model and version.
            for key, value in tags.items():
                if key not in found.tags:
                    with translated(f"tagging the registered model {name!r}"):
                        self._client.set_registered_model_tag(name, key, value)
            return
        with translated(f"making the registered model {name!r}"):
            self._client.create_registered_model(name, tags=dict(tags), description=description)
        self._undo.append(lambda: None if self.versions(name) else self._client.delete_registered_model(name))

    def create(self, name: str, model_id: str, run_id: str, tags: Mapping[str, str], description: str) -> int:
        """Add a version that points to a LoggedModel and return its number; nothing is copied.

        Args:
            name: of the registered model.
            model_id: the LoggedModel.
            run_id: that it came from.
            tags, description: of the version; written with it, in one step.
        """
        with translated(f"adding a version to {name!r}"), _as_default(self._store.tracking_uri):
            made = self._client.create_model_version(
                name,
                f"models:/{model_id}",
                run_id=run_id,
                tags=dict(tags),
                description=description,
                # Nothing is copied, so there is nothing to wait for.
                await_creation_for=0,
                model_id=model_id,
            )
        version = int(made.version)
        self._undo.append(lambda: self._client.delete_model_version(name, str(version)))
        self._link(model_id, name, version)
        return version

    def update(self, name: str, found: Any, tags: Mapping[str, str], description: str) -> bool:
        """Bring a version's tags and description up to date and return whether anything was written.

        Args:
            name: of the registered model.
            found: MLflow's version.
            tags: that it shall have; others of this program that it has are removed.
            description: likewise.
        """
        version = str(found.version)
        changed = {key: value for key, value in tags.items() if found.tags.get(key) != value}
        gone = [key for key in found.tags if key.startswith("slim.") and key not in tags]
        with translated(f"bringing version {version} of {name!r} up to date"):
            for key, value in changed.items():
                self._client.set_model_version_tag(name, version, key, value)
            for key in gone:
                self._client.delete_model_version_tag(name, version, key)
            if (found.description or "") != description:
                self._client.update_model_version(name, version, description)
        return bool(changed or gone or (found.description or "") != description)

    def tag(self, name: str, version: int, key: str, value: str) -> None:
        """Set one tag of a version."""
        with translated(f"tagging version {version} of {name!r}"):
            self._client.set_model_version_tag(name, str(version), key, value)

    def point(self, name: str, aliases: Sequence[str], version: int, study: str) -> dict[str, int | None]:
        """Let aliases point to a version and return those that moved, with the version that they pointed to before.

        Each moves in one step, so that whoever loads by an alias gets the old version or the new one, never none.
        """
        found = self.model(name)
        assert found is not None
        moved: dict[str, int | None] = {}
        for alias in aliases:
            old = found.aliases.get(alias)
            if old is not None and int(old) == version:
                continue
            self._undo.append(functools.partial(self._restore, name, alias, old, found.tags.get(f"{STUDY_OF_ALIAS}{alias}")))
            with translated(f"moving the alias {alias!r} of {name!r}"):
                self._client.set_registered_model_alias(name, alias, str(version))
                self._client.set_registered_model_tag(name, f"{STUDY_OF_ALIAS}{alias}", study)
            moved[alias] = None if old is None else int(old)
        return moved

    def _restore(self, name: str, alias: str, version: str | None, study: str | None) -> None:
        if version is None:
            self._client.delete_registered_model_alias(name, alias)
        else:
            self._client.set_registered_model_alias(name, alias, version)
        tag = f"{STUDY_OF_ALIAS}{alias}"
        if study is not None:
            self._client.set_registered_model_tag(name, tag, study)
        elif tag in self._client.get_registered_model(name).tags:
            self._client.delete_registered_model_tag(name, tag)

    def _link(self, model_id: str, name: str, version: int) -> None:
        """Name the version on the LoggedModel, where MLflow's UI looks for it; a server has done so already."""
        self._undo.append(lambda: self._set_links(model_id, [e for e in self._links(model_id) if not _is(e, name, version)]))
        with translated(f"linking {model_id} with version {version} of {name!r}"):
            linked = self._links(model_id)
            if not any(_is(each, name, version) for each in linked):
                self._set_links(model_id, [*linked, {"name": name, "version": version}])

    def _links(self, model_id: str) -> list[dict[str, Any]]:
        return list(json.loads(self._client.get_logged_model(model_id).tags.get(MLFLOW_MODEL_VERSIONS, "[]")))

    def _set_links(self, model_id: str, linked: list[dict[str, Any]]) -> None:
        if linked:
            self._client.set_logged_model_tags(model_id, {MLFLOW_MODEL_VERSIONS: json.dumps(linked)})
        else:
            self._client.delete_logged_model_tag(model_id, MLFLOW_MODEL_VERSIONS)


def _is(link: Mapping[str, Any], name: str, version: int) -> bool:
    return link.get("name") == name and str(link.get("version")) == str(version)


@contextlib.contextmanager
def _as_default(tracking_uri: str) -> Iterator[None]:
    """Let MLflow's own look-ups go to this store: its database registry asks the process's default one for a LoggedModel."""
    if tracking_uri.startswith("http") or mlflow.get_tracking_uri() == tracking_uri:
        yield
        return
    variable = os.environ.get("MLFLOW_TRACKING_URI")
    before = mlflow.get_tracking_uri() if mlflow.is_tracking_uri_set() else None
    mlflow.set_tracking_uri(tracking_uri)
    try:
        yield
    finally:
        # What was only the variable's stays the variable's, which MLflow sets and removes along with its own.
        mlflow.set_tracking_uri(before if before != variable else None)
        if variable is not None:
            os.environ["MLFLOW_TRACKING_URI"] = variable
