"""From a study to versions in the registry: chosen, checked, written, pointed to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from slim.errors import ConfigError, StoreError
from slim.files import home
from slim.registry import card, choices, evidence, folder, gates, origin, original, push, subject
from slim.registry.candidates import Candidate, judge
from slim.registry.origin import Origin
from slim.registry.subject import Subject
from slim.registry.versions import Registry
from slim.registry.words import VERSION, Change, Refused, Registered, Registration
from slim.store import Store


@dataclass(frozen=True)
class Question:
    """What is to be registered, and how.

    Attributes:
        study: run id of the study.
        objectives: deployments whose recommendation is registered; empty is all that the study answers.
        name: of the registered model; None is ``slim-<model>``, one a base model.
        each_model: what the study recommends for each model alone, not over all of them.
        force: register in spite of a gate that can be passed by force, and record it.
        push_to_hub: owner or repository on the Hugging Face Hub to upload to; None uploads nothing.
        hub_public: whether a repository that is made there is public.
        dry_run: check everything, write nothing.
    """

    study: str
    objectives: tuple[str, ...] = ()
    name: str | None = None
    each_model: bool = False
    force: bool = False
    push_to_hub: str | None = None
    hub_public: bool = False
    dry_run: bool = False


def register(question: Question, tracking_uri: str | None = None) -> Registration:
    """Put what a study recommends into MLflow's model registry.

    A version points to the checkpoint that is in the artifact store already; original weights are written there once. The same call again
    changes nothing. A failure leaves no version, no registered model and no alias that was not there before.

    Args:
        question: what is asked.
        tracking_uri: MLflow store; None is ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the working directory.

    Raises:
        UserError: wrong input; nothing has been written.
        StoreError: the store or the Hub cannot be read or written.
    """
    from filelock import FileLock

    store = choices.open_study(question.study, tracking_uri)
    home().mkdir(parents=True, exist_ok=True)
    # Two at a time would both find that a version is not there yet.
    with FileLock(home() / "registry.lock"):
        return _Call(store, question).run()


class _Call:
    """One call of `register`.

    Args:
        store: to read from and to write to.
        question: what is asked.
    """

    def __init__(self, store: Store, question: Question) -> None:
        self._store = store
        self._question = question
        self._registry = Registry(store)
        self._cards: dict[str, str] = {}
        self._judged: dict[str, tuple[Subject, tuple[str, ...]]] = {}

    def run(self) -> Registration:
        """Do it."""
        asked = self._question
        study = self._store.get(asked.study)
        chosen, unanswered = choices.read(self._store, study, asked.objectives, each_model=asked.each_model)
        judged = [judge(self._store, self._registry, one, name=asked.name, force=asked.force) for one in chosen]
        candidates = [one for one in judged if isinstance(one, Candidate)]
        self._judged = {one.subject.run.run_id: (one.subject, one.forced) for one in candidates}
        refused = tuple(one for one in judged if isinstance(one, Refused))
        self._check(candidates)
        done = Registration(study.run_id, (), refused, unanswered)
        if asked.dry_run:
            return replace(done, versions=tuple(map(self._planned, candidates)))
        with self._registry.all_or_nothing():
            written = [self._write(one) for one in candidates]
            # Aliases last: until then nobody who loads by one sees anything of this.
            versions = [self._point(one) for one in written]
        if asked.push_to_hub is not None:
            versions = [self._push(one, of) for one, of in zip(versions, candidates, strict=True)]
        return replace(done, versions=tuple(versions))

    def _check(self, candidates: Sequence[Candidate]) -> None:
        """Refuse names and targets that cannot be, before anything is written."""
        asked = self._question
        bases = sorted({one.subject.run.params["model"] for one in candidates})
        if asked.name is not None and len(bases) > 1:
            raise ConfigError(
                f"name {asked.name!r} is of one base model, and the study recommends {', '.join(bases)}; leave the name empty"
            )
        owners: dict[str, str] = {}
        for one in candidates:
            base = one.subject.run.params["model"]
            if owners.setdefault(one.name, base) != base:
                raise ConfigError(
                    f"{owners[one.name]!r} and {base!r} would both be the registered model {one.name!r}; register a study of "
                    "each alone, one of them under another name"
                )
            self._registry.check_name(one.name, base)
        if asked.push_to_hub is not None:
            push.check(asked.push_to_hub, len(candidates))

    def _planned(self, one: Candidate) -> Registered:
        """What would be done; that only tags or the card change is found when they are written."""
        version = None if one.found is None else int(one.found.version)
        before = self._registry.aliases(one.name)
        moved = {a: before.get(a) for a in one.choice.deployments if version is None or before.get(a) != version}
        change: Change = "registered" if version is None else "unchanged"
        return self._registered(one, version, one.model_id, change, moved)

    def _write(self, one: Candidate) -> Registered:
        """Write a version and its card."""
        known: Mapping[str, str] = one.found.tags if one.found is not None else {}
        source = origin.trace(one.subject, known.get(VERSION.LICENCE))
        # Two configurations of one call may serve the same original weights.
        model_id = one.model_id or original.find(self._store, one.subject)
        if model_id is None:
            model_id = original.write(self._store, one.subject, original.source(one.subject))
        self._cards[model_id] = self._card(one, model_id, source)
        rewritten = folder.write_card(self._store, model_id, self._cards[model_id])
        study = known.get(VERSION.STUDY_RUN, self._question.study)
        tags = evidence.tags(one.subject, study=study, model_id=model_id, licence=source.licence, forced=one.forced)
        said = evidence.description(one.subject, forced=one.forced)
        if one.found is not None:
            kept = {VERSION.HUB: known[VERSION.HUB]} if VERSION.HUB in known else {}
            updated = self._registry.update(one.name, one.found, {**tags, **kept}, said)
            return self._registered(one, int(one.found.version), model_id, "updated" if updated or rewritten else "unchanged")
        about = (
            f"Checkpoints of {source.title}, each measured before it was registered: one version a configuration. "
            "An alias names the version that a study recommends for it."
        )
        self._registry.ensure_model(one.name, about, {VERSION.MODEL: one.subject.run.params["model"]})
        made_by = one.subject.quantize or one.subject.run
        version = self._registry.create(one.name, model_id, made_by.run_id, tags, said)
        return self._registered(one, version, model_id, "registered")

    def _card(self, one: Candidate, model_id: str, source: Origin) -> str:
        """The card of a checkpoint; it tells of all registered configurations that serve it, the oldest first."""
        told = {one.subject.run.run_id: (one.subject, one.forced)}
        for version in self._registry.versions(one.name):
            run_id = version.tags.get(VERSION.CONFIGURATION_RUN)
            if version.tags.get(VERSION.CHECKPOINT) == model_id and run_id is not None and run_id not in told:
                told[run_id] = self._judged.get(run_id) or self._as_registered(run_id, version.tags)
        return card.write(sorted(told.values(), key=lambda pair: (pair[0].run.start_unix_s, pair[0].run.run_id)), source)

    def _as_registered(self, run_id: str, tags: Mapping[str, str]) -> tuple[Subject, tuple[str, ...]]:
        """A configuration as it was registered, with the reasons that were passed by force; ``tags`` are its version's."""
        row, baseline = choices.row_of(self._store, tags.get(VERSION.STUDY_RUN, ""), run_id)
        return subject.load(self._store, row, baseline), tuple(filter(None, tags.get(VERSION.FORCED, "").split("; ")))

    def _point(self, one: Registered) -> Registered:
        assert one.version is not None
        return replace(one, moved=self._registry.point(one.name, one.deployments, one.version, self._question.study))

    def _push(self, one: Registered, of: Candidate) -> Registered:
        """Upload a checkpoint with its card and note the commit on its version."""
        assert self._question.push_to_hub is not None
        assert one.model_id is not None
        assert one.version is not None
        to = push.repository(self._question.push_to_hub, of.subject.model_name, of.subject.precision.name)
        with gates.fetched(self._store, one.model_id) as directory:
            if directory is None:
                raise StoreError(f"{one.configuration}: its checkpoint is not in the store any more")
            address = push.push(directory, self._cards[one.model_id], to, public=self._question.hub_public)
        if of.found is None or of.found.tags.get(VERSION.HUB) != address:
            self._registry.tag(one.name, one.version, VERSION.HUB, address)
        return replace(one, hub=address)

    def _registered(
        self,
        one: Candidate,
        version: int | None,
        model_id: str | None,
        change: Change,
        moved: Mapping[str, int | None] | None = None,
    ) -> Registered:
        return Registered(
            name=one.name,
            version=version,
            configuration=one.subject.name,
            run_id=one.choice.row.run_id,
            model_id=model_id,
            deployments=one.choice.deployments,
            moved=moved or {},
            forced=one.forced,
            change=change,
        )
