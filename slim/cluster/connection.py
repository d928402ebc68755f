"""Reaching a Ray cluster, or starting one on this machine, and looking at its nodes."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from slim.cluster import cores
from slim.cluster.nodes import HOST, Node, Room, this_machine
from slim.config import SweepConfig
from slim.errors import ConfigError
from slim.provenance import ROOT, probe, usable_cores

_START_S = 120.0
"""For Python, Ray and the probes of the nodes to start, on top of the time that the cluster is given to answer."""

_STORE_BYTES = 256 << 20
"""Of a cluster on this machine, where results do not travel through it."""

_MARK = "slim cluster: "

PROJECT_ONLY = {"excludes": ["__pycache__"]}


def look(config: SweepConfig) -> list[Node]:
    """Return the nodes of the cluster that a sweep asks for; nothing is left running or connected.

    Raises:
        ConfigError: ray is not installed, or the cluster does not answer in time.
    """
    _check_installed()
    if is_connected():
        return nodes(config)
    address = config.executor.address
    if address is None:
        return [this_machine(config)]
    _check_reachable(address, config.executor.timeout_s)
    # In a process of its own, since Ray aborts the process, or waits for minutes, when a cluster is not what it should be.
    done = None
    try:
        done = subprocess.run(
            [sys.executable, "-m", "slim.cluster.connection"],
            input=config.model_dump_json(),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=config.executor.timeout_s + _START_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"executor.address {address!r}: no answer within {config.executor.timeout_s + _START_S:.0f} s; allowed: the address of a running "
            "Ray cluster (ray status tells)"
        ) from None
    told = next((line for line in done.stdout.splitlines() if line.startswith(_MARK)), None)
    if told is None:
        last = next((line.strip() for line in reversed(done.stderr.splitlines()) if line.strip()), f"exit code {done.returncode}")
        raise ConfigError(f"executor.address {address!r}: {last[:300]}; allowed: the address of a running Ray cluster")
    return [Node.from_json(values) for values in json.loads(told.removeprefix(_MARK))]


@contextmanager
def connected(config: SweepConfig) -> Iterator[None]:
    """Be connected to the cluster that a sweep asks for; one that was started here ends with the block.

    A process that is connected already stays with that cluster.

    Raises:
        ConfigError: ray is not installed, or the cluster does not answer.
    """
    _check_installed()
    if is_connected():
        yield
        return
    address = config.executor.address
    _set_defaults(alone=address is None)
    import ray

    if address is not None:
        _check_reachable(address, config.executor.timeout_s)
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    local: dict[str, Any] = (
        {} if address else {"resources": {HOST: 1}, "include_dashboard": False, "object_store_memory": _STORE_BYTES}
    )
    try:
        # No address of the environment's: a sweep goes where its file says.
        ray.init(address=address or "local", log_to_driver=False, configure_logging=False, logging_level="ERROR", **local)
    except Exception as error:
        # Ray raises anything, a bare Exception among it.
        what = f"executor.address {address!r}" if address else "executor: Ray does not start"
        raise ConfigError(f"{what}: {' '.join(str(error).split())[:300]}") from error
    finally:
        # Ray puts its own handler there, which would end the sweep without a word to the store.
        if handler is not None and in_main:
            signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        ray.shutdown()


def nodes(config: SweepConfig) -> list[Node]:
    """Return the nodes of the cluster that this process is connected to, each looked at by a task there.

    Raises:
        ConfigError: a node cannot be looked at, or none is left.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    interpreters = config.interpreters
    remote = ray.remote(num_cpus=0, max_retries=0)(_look_around)
    alive = [n for n in ray.nodes() if n["Alive"]]
    asked = []
    # Where some have GPUs, the others measure nothing.
    for node in [n for n in alive if n["Resources"].get("GPU")] or alive:
        gpus = int(node["Resources"].get("GPU", 0))
        where = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        looked = remote.options(scheduling_strategy=where, **shipped()).remote(interpreters.measure, interpreters.quantize, gpus)
        asked.append((node, looked))
    found = []
    for node, looked in asked:
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        try:
            values = ray.get(looked, timeout=config.executor.timeout_s + _START_S)
        except (ray.exceptions.TaskUnschedulableError, ray.exceptions.NodeDiedError):
            # Ray has nodes in its table for a while that are gone.
            continue
        except ray.exceptions.RayError as error:
            raise ConfigError(f"executor: node {name} cannot be looked at: {' '.join(str(error).split())[:300]}") from error
        found.append(Node(name=name, room=room_of(node), **_environments(values)))
    if not found:
        raise ConfigError("executor: the cluster has no node left")
    return found


def rooms() -> list[Room]:
    """Return what the nodes of the cluster that this process is connected to have, by Ray's count."""
    import ray

    return [room_of(node) for node in ray.nodes() if node["Alive"]]


def room_of(node: Mapping[str, Any]) -> Room:
    """What a node has, from Ray's table of nodes."""
    has = node["Resources"]
    others = {name: amount for name, amount in has.items() if name not in ("CPU", "GPU", "memory", "object_store_memory")}
    return Room(int(has.get("GPU", 0)), int(has.get("CPU", 0)), others)


def shipped() -> dict[str, Any]:
    """Return Ray's options that bring this project along, where the cluster has nodes that are other machines."""
    import ray

    own = socket.gethostname()
    if all(n["NodeManagerHostname"] == own for n in ray.nodes()):
        return {}
    return {"runtime_env": {"py_modules": [str(ROOT / "slim")], **PROJECT_ONLY}}


def _look_around(measure: str | None, quantize: str | None, gpus: int) -> dict[str, Any]:
    """Run on a node: what workers would find there."""
    # Ray hides the GPUs from a task that asks for none.
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    return {
        "measure": probe(measure).to_json(),
        "quantize": probe(quantize).to_json(),
        "share": min(map(len, cores.of_this_host(gpus))) if gpus else usable_cores(),
    }


def _environments(values: dict[str, Any]) -> dict[str, Any]:
    from slim.provenance import Environment

    return {**values, **{name: Environment.from_json(values[name]) for name in ("measure", "quantize")}}


def _check_installed() -> None:
    if find_spec("ray") is None:
        raise ConfigError("executor ray needs the package ray, which is not installed; install it, or set executor: local")


def is_connected() -> bool:
    """Whether this process is connected to a cluster."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _check_reachable(address: str, timeout_s: float) -> None:
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=timeout_s).close()
    except OSError as error:
        why = f"no answer within {timeout_s:g} s" if isinstance(error, TimeoutError) else (error.strerror or str(error))
        raise ConfigError(
            f"executor.address {address!r} cannot be reached: {why}; allowed: host:port of a running Ray cluster, auto, or null for one on "
            "this machine"
        ) from None


def _set_defaults(alone: bool) -> None:
    """Read by Ray when it is imported and by the processes that it starts; what the user has set stays."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if alone:
        # Named for other systems, and on Linux too it makes a cluster of one machine listen on the loopback interface alone.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        # Ray would kill its own process, whose worker then dies without a reason; the kernel kills the one that is too large.
        os.environ.setdefault("RAY_memory_monitor_refresh_ms", "0")
        # Ray's workers stand back behind everything else on the machine, and so would what they start and measure.
        os.environ.setdefault("RAY_worker_niceness", "0")


def _main() -> int:
    """Look at the cluster of the sweep on standard input, and print its nodes."""
    config = SweepConfig.model_validate_json(sys.stdin.read(), strict=False)
    with connected(config):
        sys.stdout.write(_MARK + json.dumps([n.to_json() for n in nodes(config)], default=dict) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(_main())
