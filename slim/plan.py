"""From a sweep file to what has to be done: configurations, stage keys, what is finished already, what cannot work."""

from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from slim import doctor, estimate, evaluate, files, keys, models, places, precisions, preflight, quantize, rows, text
from slim.checkpoint import Shape
from slim.cluster import nodes
from slim.config import ModelEntry, SweepConfig
from slim.errors import ConfigError, StageError
from slim.jobs import Spool
from slim.planned import Plan, PlannedConfiguration, PlannedReference, PlannedStage
from slim.precisions import EngineName, Precision
from slim.profile import sources
from slim.provenance import Environment, probe
from slim.records import Failure, ModelSource, Stage
from slim.store import Store

_ROUGH_PARAMETERS = 3e9
"""For estimates of a model that is not here yet."""


def make(config: SweepConfig, store: Store | None, spool: Spool | None) -> Plan:
    """Work out a sweep without doing any of it.

    Args:
        config: the sweep.
        store: where finished stages are looked up; None where there is no store yet.
        spool: where results may wait; None looks nowhere.

    Raises:
        UserError: an unknown model, path, task, text or interpreter, or an evaluation of nothing but random weights.
    """
    config = places.absolute(config)
    measure, quantizing = environments(config)
    sources = resolve(config.models)
    _refuse_evaluation(config, sources)
    check(config)
    findings = {f.subject: f for f in doctor.diagnose(measure, doctor.read_machine(), quantizing) if f.is_configuration}
    planned: list[PlannedConfiguration] = []
    disks = _disks(store, spool)
    for source in sources:
        pairs = [precisions.serve(p.precision, p.engine) for p in config.precisions]
        # Baselines first, so that whatever comes later can be compared at once.
        pairs.sort(
            key=lambda pair: precisions.BASELINES.index(pair[0].name) if pair[0].name in precisions.BASELINES else len(pairs)
        )
        shape = _shape(source)
        parameters = _parameters(source, shape)
        unreachable = preflight.access(source)
        to_convert = preflight.source_bytes(source, shape)
        asked, left_out = _evaluable(config, source)
        for precision, engine in pairs:
            baseline = next((p.name for b in precisions.BASELINES for p, e in pairs if p.name == b and e == engine), None)
            one = _configuration(
                asked, source, precision, engine, baseline, measure=measure, quantizing=quantizing, parameters=parameters
            )
            failure = _impossible(findings, precision, engine) or unreachable or _preflight(source, precision, config)
            named = _name(source, baseline, engine) if baseline and baseline != precision.name else None
            coming = {s.key for c in planned if c.failure is None for s in c.stages if s.stage == "evaluate" and s.to_run}
            one = with_reuse(replace(one, failure=failure, baseline=named, left_out=left_out), store, spool, coming)
            model = _Model(shape, parameters, to_convert)
            one = _with_room(one, asked, model, disks, (measure, quantizing))
            to_convert = 0 if one.disk_bytes else to_convert
            planned.append(one)
    return Plan(config, measure, quantizing, tuple(planned))


def only(config: SweepConfig, stage: Stage) -> SweepConfig:
    """Return the sweep reduced to one stage.

    Raises:
        ConfigError: a precision that needs no quantizing, for the quantize stage; or a section that the stage needs is null.
    """
    names = [p.precision for p in config.precisions]
    if stage == "quantize":
        plain = [name for name in names if not precisions.get(name).is_quantized]
        if plain:
            quantized = [p.name for p in precisions.CATALOGUE.values() if p.is_quantized]
            raise ConfigError(f"precision {plain[0]!r} needs no quantizing; allowed: {', '.join(quantized)}")
    elif getattr(config, stage) is None:
        raise ConfigError(f"section {stage!r} of the sweep file is null, so there is nothing to {stage}")
    return config.model_copy(update={other: None for other in ("profile", "evaluate") if other != stage} | {"repeats": 1})


def environments(config: SweepConfig) -> tuple[Environment, Environment]:
    """Return the environments of the measuring and the quantizing workers."""
    if config.executor.name == "ray":
        return nodes.environments(config)
    return probe(config.interpreters.measure, config.spread), probe(config.interpreters.quantize, config.executor.quantize_gpus)


def check(config: SweepConfig) -> None:
    """Look up what the sweep file names besides models.

    Raises:
        UserError: an unknown task, or a text or data set that cannot be read.
    """
    if config.evaluate is not None:
        evaluate.check_tasks(config.evaluate)
        if config.evaluate.perplexity_text is not None:
            text.load(config.evaluate.perplexity_text)
    if config.profile is not None:
        sources.check(config.profile.prompts)
    calibration = config.quantize.calibration
    if not text.is_local(calibration) and not rows.is_hub_id(calibration):
        raise ConfigError(
            f"quantize.calibration {calibration!r} is no such file; allowed: {text.BUILTIN}, a text file, or a Hub data set such as "
            "HuggingFaceH4/ultrachat_200k"
        )


def resolve(entries: Sequence[ModelEntry]) -> list[ModelSource]:
    """Resolve models, with short names that tell them apart."""
    sources = [models.resolve(entry) for entry in entries]
    counts = Counter(s.short_name for s in sources)
    return [
        s if counts[s.short_name] == 1 else replace(s, short_name=f"{s.short_name}-{s.fingerprint.rpartition(':')[2][:7]}")
        for s in sources
    ]


def _refuse_evaluation(config: SweepConfig, sources: Sequence[ModelSource]) -> None:
    """Refuse a sweep in which evaluating random weights is all there is to do with a model, or with every model.

    Raises:
        ConfigError: names the first such model.
    """
    random = [s.reference for s in sources if s.kind == "synthetic"]
    if config.evaluate is not None and random and (len(random) == len(sources) or config.profile is None):
        raise ConfigError(
            f"model {random[0]!r} cannot be evaluated: its weights are random, so its accuracy, perplexity and fidelity mean nothing; "
            "set evaluate: null (--set evaluate=null), or use the entry point profile"
        )


def _evaluable(config: SweepConfig, source: ModelSource) -> tuple[SweepConfig, str | None]:
    """The sweep as it applies to one model, and what is left out of it: beside real models, random weights are only profiled."""
    if config.evaluate is None or source.kind != "synthetic":
        return config, None
    return (
        config.model_copy(update={"evaluate": None}),
        f"evaluate is left out: the weights of {source.reference!r} are random, so accuracy means nothing",
    )


def _configuration(
    config: SweepConfig,
    source: ModelSource,
    precision: Precision,
    engine: EngineName,
    baseline: str | None,
    *,
    measure: Environment,
    quantizing: Environment,
    parameters: float,
) -> PlannedConfiguration:
    """Plan one configuration; ``baseline`` is the precision of the sweep's baseline on the engine, None where it has none."""
    options = getattr(config.engines, engine).model_dump(mode="json")
    serving = {"precision": precision.name, "engine": engine, "options": options}
    device, start_s = measure.hardware.device, estimate.engine_start_s(engine, measure.hardware.device)
    stages: list[PlannedStage] = []
    reference = None
    weights = source.fingerprint
    if precision.is_quantized:
        weights = keys.quantize_key(source.fingerprint, precision, config.quantize, config.seed, quantizing)
        seconds = estimate.quantize_s(precision, config.quantize, parameters, quantizing.hardware.device)
        stages.append(PlannedStage("quantize", weights, 0, config.quantize.model_dump(mode="json"), seconds))
    for repeat in range(config.repeats):
        if config.profile is not None:
            key = keys.profile_key(weights, serving, config.profile, seed=config.seed, repeat=repeat, environment=measure)
            seconds = start_s + estimate.profile_s(config.profile, parameters, precision.weight_bits, engine, device)
            stages.append(PlannedStage("profile", key, repeat, config.profile.model_dump(mode="json"), seconds))
        if config.evaluate is not None and repeat == 0:
            # A sweep without a baseline may follow one that had it.
            against = baseline or precisions.BASELINES[0]
            if config.evaluate.measures_fidelity and against != precision.name:
                its = {**serving, "precision": against}
                key = keys.evaluate_key(source.fingerprint, its, config.evaluate, seed=config.seed, environment=measure)
                reference = PlannedReference(_name(source, against, engine), key)
            compared = against if reference else None
            key = keys.evaluate_key(weights, serving, config.evaluate, seed=config.seed, environment=measure, baseline=compared)
            seconds = estimate.evaluate_s(config.evaluate, parameters, device) + (0 if config.profile else start_s)
            stages.append(PlannedStage("evaluate", key, 0, config.evaluate.model_dump(mode="json"), seconds))
    key = keys.digest({"configuration": serving, "weights": weights, "stages": sorted(s.key for s in stages)})
    name = _name(source, precision.name, engine)
    return PlannedConfiguration(name, source, precision, engine, options, key, tuple(stages), reference=reference)


def _name(source: ModelSource, precision: str, engine: EngineName) -> str:
    return f"{source.short_name}/{precision}@{engine}"


def with_reuse(
    planned: PlannedConfiguration, store: Store | None, spool: Spool | None, coming: Container[str] = ()
) -> PlannedConfiguration:
    """Look up what is finished already.

    Args:
        planned: a configuration of which that is not known.
        store: where finished stages are looked up.
        spool: where results may wait.
        coming: keys of evaluations that run before it.
    """
    run = store.find_finished("configuration", planned.key) if store else None
    if run is not None:
        planned = replace(planned, run=run)
    stages = []
    for stage in planned.stages:
        found = store.find_finished(stage.stage, stage.key) if store else None
        waiting = spool.find(stage.key) if spool and found is None else None
        spooled = waiting is not None and waiting.result.failure is None
        params = found.params if found else waiting.result.params if waiting and spooled else None
        if (
            stage.stage == "evaluate"
            and params is not None
            and _misses_reference(planned.reference, params, store, spool, coming)
        ):
            # It was evaluated before its baseline was: once more, now that the divergence can be measured.
            found, spooled, planned = None, False, replace(planned, run=None)
        stages.append(replace(stage, run=found, spooled=spooled))
    return replace(planned, stages=tuple(stages))


def _misses_reference(
    reference: PlannedReference | None,
    params: Mapping[str, Any],
    store: Store | None,
    spool: Spool | None,
    coming: Container[str],
) -> bool:
    """Whether an evaluation with these params had no distributions of its baseline to compare with, and now there are or will be some."""
    if reference is None or evaluate.had_reference(params):
        return False
    if reference.key in coming:
        return True
    run = store.find_finished("evaluate", reference.key) if store else None
    waiting = spool.find(reference.key) if spool else None
    return any(evaluate.has_reference(p) for p in (run.params if run else {}, waiting.result.params if waiting else {}))


def _impossible(findings: Mapping[str, doctor.Finding], precision: Precision, engine: EngineName) -> Failure | None:
    """What `slim.doctor` says about a precision on an engine in the environments of the workers."""
    finding = findings.get(f"{precision.name}@{engine}")
    return Failure(finding.reason, finding.detail) if finding is not None and finding.reason is not None else None


def _preflight(source: ModelSource, precision: Precision, config: SweepConfig) -> Failure | None:
    """What the model's shape says about the scheme, when the shape is known."""

    def look() -> None:
        shape = models.describe(source)
        if shape is not None:
            quantize.preflight(shape, precision, config.quantize)

    return _caught(look)


@dataclass(frozen=True)
class _Model:
    """What is known of a model's size, and what converting it takes on disk if that is still to be done."""

    shape: Shape | None
    parameters: float
    to_convert_bytes: int


def _shape(source: ModelSource) -> Shape | None:
    """The model's shape, where it is known; what is wrong with it `_preflight` tells."""
    try:
        return models.describe(source)
    except StageError:
        return None


def _disks(store: Store | None, spool: Spool | None) -> list[preflight.Disk]:
    """The disks that results go to: of the spool, and of a store's local artifacts where that is another one."""
    places = [spool.root] if spool is not None else []
    local = store.artifact_directory() if store is not None else None
    if local is not None and all(files.nearest(local).stat().st_dev != files.nearest(p).stat().st_dev for p in places):
        # On the same disk checkpoints are linked, not copied.
        places.append(local)
    return [preflight.Disk.of(place) for place in places]


def _with_room(
    planned: PlannedConfiguration,
    config: SweepConfig,
    model: _Model,
    disks: Sequence[preflight.Disk],
    workers: tuple[Environment, Environment],
) -> PlannedConfiguration:
    """Look whether what is left of a configuration fits into memory and on the disks, and set its room there aside."""
    stages = [s.stage for s in planned.stages if s.to_run]
    if planned.failure is not None or planned.run is not None or not stages:
        return planned
    failure = None
    if "quantize" in stages:
        failure = preflight.calibration(planned.precision, config.quantize)
    if failure is None and model.shape is not None and "profile" in stages:
        failure = preflight.context(model.shape, config)
    if failure is None and model.shape is not None:
        failure = preflight.memory(
            model.shape,
            planned.precision,
            planned.engine,
            config,
            measure=workers[0],
            quantizing=workers[1],
            makes="quantize" in stages,
        )
    needed = preflight.result_bytes(
        model.shape, planned.precision, config, stages, keeps=planned.keeps_reference, parameters=model.parameters
    )
    for number, disk in enumerate(disks):
        failure = failure or disk.take(needed + (model.to_convert_bytes if number == 0 else 0), planned.name)
    return replace(planned, failure=failure, disk_bytes=0 if failure else needed + model.to_convert_bytes)


def _caught(call: Callable[[], object]) -> Failure | None:
    try:
        call()
    except StageError as error:
        return Failure(error.reason, error.message)
    return None


def _parameters(source: ModelSource, shape: Shape | None) -> float:
    """Parameters for estimates: counted when the model's shape is known, else a guess."""
    if shape is not None:
        return float(shape.parameters)
    # A GGUF file has about a byte a weight.
    is_gguf = source.path is not None and source.path.is_file()
    return float(source.path.stat().st_size) if source.path is not None and is_gguf else _ROUGH_PARAMETERS
