"""The nodes of a cluster as a sweep sees them, and whether they can do what it asks for."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from slim import provenance
from slim.config import SweepConfig
from slim.errors import ConfigError
from slim.provenance import Environment, Hardware

HOST = "slim_host"
"""The Ray resource, 1 a host, that whoever must have a host for itself takes whole."""


@dataclass(frozen=True)
class Room:
    """What Ray gives out of a node.

    Attributes:
        gpus, cpus: how many.
        resources: what else, by name.
    """

    gpus: int
    cpus: int
    resources: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Node:
    """A node of a cluster.

    Attributes:
        name: host name or address, for messages.
        room: what Ray gives out of it.
        share: cores that go with one GPU; all that the node has where it has none.
        measure, quantize: environments of workers there, all GPUs of the node visible.
    """

    name: str
    room: Room
    share: int
    measure: Environment
    quantize: Environment

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        measure, quantize = (Environment.from_json(values[name]) for name in ("measure", "quantize"))
        return cls(**{**values, "room": Room(**values["room"]), "measure": measure, "quantize": quantize})


@dataclass(frozen=True)
class Needs:
    """What workers ask Ray for.

    Attributes:
        measure_gpus, quantize_gpus: GPUs.
        alone: measuring efficiency takes a host for itself.
        whole: every worker does, since it has no GPU of its own.
        resources: that every worker asks for besides.
    """

    measure_gpus: int
    quantize_gpus: int
    alone: bool
    whole: bool
    resources: Mapping[str, float] = field(default_factory=dict)


def needs(config: SweepConfig, gpus: Sequence[int]) -> Needs:
    """Return what the workers of a sweep ask for.

    Args:
        config: the sweep.
        gpus: of each node.
    """
    asked, executor = config.executor.gpus, config.executor
    if asked is None:
        asked = config.spread if any(gpus) or config.spread > 1 else 0
    quantize = min(executor.quantize_gpus, max(gpus, default=0)) if asked == 0 else executor.quantize_gpus
    return Needs(asked, quantize, not executor.overlap, asked == 0, dict(executor.resources))


def check(config: SweepConfig, nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes on which configurations can be measured.

    Raises:
        ConfigError: none has enough GPUs, a resource is missing, or they differ, so that what they measure could not be compared.
    """
    asked = needs(config, [n.room.gpus for n in nodes])
    for name in asked.resources:
        if not any(n.room.resources.get(name) for n in nodes):
            known = sorted({r for n in nodes for r in n.room.resources if not r.startswith("node:")})
            raise ConfigError(f"executor.resources names {name!r}, which no node has; allowed: {', '.join(known) or 'none'}")
    fitting = [n for n in nodes if all(n.room.resources.get(name, 0) >= amount for name, amount in asked.resources.items())]
    most = max((n.room.gpus for n in fitting), default=0)
    for field_name, wanted in (("executor.gpus", asked.measure_gpus), ("executor.quantize_gpus", asked.quantize_gpus)):
        if wanted > most:
            what = "a configuration" if field_name == "executor.gpus" else "quantizing"
            raise ConfigError(
                f"{field_name}: {what} asks for {wanted} GPU{'s' if wanted > 1 else ''}, and no node has more than {most}; allowed: up "
                f"to {most}"
            )
    if asked.whole and config.executor.overlap:
        raise ConfigError(
            "executor.overlap true needs GPUs: configurations without one would share the host's cores; allowed: false, or "
            "executor.gpus 1 or more"
        )
    fitting = [n for n in fitting if n.room.gpus >= asked.measure_gpus]
    if asked.alone:
        without = [n.name for n in fitting if n.room.resources.get(HOST, 0) != 1]
        if without:
            raise ConfigError(
                f"executor.overlap false: node {without[0]} lacks the Ray resource {HOST} by which one at a time has a host for itself; "
                f"""start it with --resources '{{"{HOST}": 1}}', or set executor.overlap: true"""
            )
    _check_alike(fitting)
    return fitting


def _check_alike(nodes: Sequence[Node]) -> None:
    first = nodes[0]
    for other in nodes[1:]:
        for what, here, there in _differences(first, other):
            raise ConfigError(
                f"executor: nodes {first.name} and {other.name} differ in {what} ({here} and {there}), so what they measure cannot be "
                "compared; name a resource in executor.resources that only alike nodes have"
            )


def _differences(one: Node, other: Node) -> list[tuple[str, object, object]]:
    found: list[tuple[str, object, object]] = []
    for what in ("device", "name", "driver", "cpu_name", "compute_capability"):
        pair = (getattr(one.measure.hardware, what), getattr(other.measure.hardware, what))
        found += [(what, *pair)] if pair[0] != pair[1] else []
    if one.share != other.share:
        found.append(("cores a GPU", one.share, other.share))
    for a, b in ((one.measure, other.measure), (one.quantize, other.quantize)):
        for package in sorted({*a.versions, *b.versions}):
            if a.versions.get(package) != b.versions.get(package):
                found.append((package, a.versions.get(package, "absent"), b.versions.get(package, "absent")))
    return found


def seen_by_workers(config: SweepConfig, nodes: Sequence[Node]) -> tuple[Environment, Environment]:
    """Return the environments of measuring and quantizing workers: as on the nodes, but with the GPUs and cores that one gets.

    Raises:
        ConfigError: as `check`.
    """
    node = check(config, nodes)[0]
    asked = needs(config, [n.room.gpus for n in nodes])
    share = node.share if config.executor.pin else None
    measure = replace(node.measure, hardware=_part(node.measure.hardware, asked.measure_gpus, share))
    return measure, replace(node.quantize, hardware=_part(node.quantize.hardware, asked.quantize_gpus, share))


def _part(hardware: Hardware, gpus: int, share: int | None) -> Hardware:
    cores = hardware.cores if share is None else share * max(gpus, 1)
    return replace(hardware, count=gpus if hardware.device == "cuda" and gpus else hardware.count, cores=cores)


def this_machine(config: SweepConfig) -> Node:
    """Return this machine as the node of a cluster that is yet to be started on it."""
    from slim.cluster import cores

    measure, quantize = provenance.probe(config.interpreters.measure), provenance.probe(config.interpreters.quantize)
    # What Ray will count: GPUs, whatever torch can do with them.
    found = provenance.gpu_hardware()
    gpus, usable = (found.count if found else 0), provenance.usable_cores()
    share = min(map(len, cores.of_this_host(gpus))) if gpus else usable
    return Node("this machine", Room(gpus, usable, {HOST: 1.0}), share, measure, quantize)


def environments(config: SweepConfig) -> tuple[Environment, Environment]:
    """Return the environments of a sweep's measuring and quantizing workers on the cluster.

    Raises:
        ConfigError: ray is not installed, the cluster cannot be reached, or it lacks what the sweep asks for.
    """
    from slim.cluster import connection

    return seen_by_workers(config, connection.look(config))
