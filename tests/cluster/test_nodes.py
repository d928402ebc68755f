"""What workers ask for, and what a cluster must have for it, each problem in one line."""

from dataclasses import replace
from typing import Any

import pytest

from slim.cluster import connection, nodes
from slim.cluster.nodes import HOST, Node, Room
from slim.config import SweepConfig
from slim.errors import ConfigError
from slim.provenance import Environment, Hardware

H100 = Hardware("cuda", "NVIDIA H100", 4, 80 << 30, "570.1", "AMD EPYC", 64, (9, 0))
ENVIRONMENT = Environment("3.11.7", "Linux", H100, {"vllm": "0.26.0", "torch": "2.11.0"})


def node(name: str = "a", gpus: int = 4, **resources: float) -> Node:
    return Node(name, Room(gpus, 64, {HOST: 1.0, **resources}), 16, ENVIRONMENT, ENVIRONMENT)


def config(spread: int = 1, **executor: Any) -> SweepConfig:
    return SweepConfig.parse(
        {
            "models": ["m"],
            "precisions": ["bf16@vllm"],
            "engines": {"vllm": {"tensor_parallel_size": spread}},
            "executor": {"name": "ray", **executor},
        }
    )


def test_a_configuration_gets_the_gpus_it_is_spread_over() -> None:
    assert nodes.needs(config(2), [4]).measure_gpus == 2
    assert nodes.needs(config(), [4]).measure_gpus == 1
    assert nodes.needs(config(gpus=3), [4]).measure_gpus == 3


def test_without_gpus_each_worker_has_a_host_for_itself() -> None:
    asked = nodes.needs(config(), [0, 0])
    assert (asked.measure_gpus, asked.quantize_gpus, asked.whole) == (0, 0, True)


def test_workers_see_their_part_of_a_node() -> None:
    measure, quantize = nodes.seen_by_workers(config(2), [node(), node("b")])
    assert (measure.hardware.label, measure.hardware.cores) == ("2x NVIDIA H100", 32)
    assert (quantize.hardware.count, quantize.hardware.cores) == (1, 16)
    unpinned, _ = nodes.seen_by_workers(config(pin=False), [node()])
    assert (unpinned.hardware.count, unpinned.hardware.cores) == (1, 64)


def without_host() -> Node:
    return replace(node("b"), room=Room(4, 64))


def other(**hardware: Any) -> Node:
    return replace(node("b"), measure=replace(ENVIRONMENT, hardware=replace(H100, **hardware)))


@pytest.mark.parametrize(
    ("asked", "cluster", "told"),
    [
        (config(8), [node(), node("b", 2)], ["executor.gpus", "8 GPUs", "more than 4", "up to 4"]),
        (config(quantize_gpus=5), [node()], ["executor.quantize_gpus", "5 GPUs", "up to 4"]),
        (config(), [node(), without_host()], ["node b", HOST, "--resources", "executor.overlap: true"]),
        (config(gpus=0, overlap=True), [node(gpus=0)], ["executor.overlap", "executor.gpus 1"]),
        (config(resources={"blue": 1.0}), [node(green=1.0)], ["executor.resources", "'blue'", "green"]),
        (config(), [node(), other(name="NVIDIA A100")], ["a and b differ in name", "NVIDIA A100", "executor.resources"]),
        (config(), [node(), other(driver="560.2")], ["differ in driver"]),
        (config(), [node(), replace(node("b"), share=8)], ["cores a GPU", "16 and 8"]),
        (config(), [node(), replace(node("b"), measure=replace(ENVIRONMENT, versions={"vllm": "0.27.0"}))], ["differ in torch"]),
    ],
)
def test_what_a_cluster_lacks_is_one_line(asked: SweepConfig, cluster: list[Node], told: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        nodes.check(asked, cluster)
    message = str(caught.value)
    assert "\n" not in message
    assert all(part in message for part in told), message


def test_nodes_that_are_not_chosen_may_differ() -> None:
    chosen = nodes.check(config(resources={"blue": 0.5}), [node(blue=1.0), other(name="NVIDIA A100")])
    assert [n.name for n in chosen] == ["a"]
    assert nodes.check(config(2), [node(), replace(other(name="NVIDIA L4"), room=Room(1, 8))])[0].name == "a"


def test_a_node_goes_through_json() -> None:
    import json

    assert Node.from_json(json.loads(json.dumps(node(blue=1.0).to_json()))) == node(blue=1.0)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"executor": "slurm"}, ["executor.name", "local", "ray", "slurm"]),
        ({"executor": {"name": "ray", "address": "somewhere"}}, ["address", "somewhere", "host:port", "auto"]),
        ({"executor": {"name": "ray", "address": "ray://a:1"}}, ["address", "host:port"]),
        ({"executor": {"name": "ray", "address": "a:99999"}}, ["address", "host:port"]),
        ({"executor": {"overlap": True}}, ["overlap", "name: ray"]),
        ({"executor": {"name": "ray", "gpus": -1}}, ["executor.gpus"]),
        ({"executor": {"name": "ray", "gpus": 1}, "engines": {"vllm": {"tensor_parallel_size": 2}}}, ["tensor_parallel_size 2"]),
        ({"executor": {"name": "ray", "resources": {"blue": 0.0}}}, ["executor.resources"]),
    ],
)
def test_a_wrong_field_is_one_line(values: dict[str, Any], told: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        SweepConfig.parse({"models": ["m"], "precisions": ["bf16@vllm"], **values})
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in told), caught.value


def test_a_name_alone_is_an_executor_and_its_fields_can_be_set() -> None:
    base = {"models": ["m"], "precisions": ["bf16@vllm"], "executor": "ray"}
    assert SweepConfig.parse(base).executor.name == "ray"
    assert SweepConfig.build({"executor.overlap": True}, base).executor.overlap
    assert SweepConfig.build({"executor.name": "local"}, base).executor.name == "local"


def test_without_ray_the_message_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="the package ray, which is not installed"):
        connection.look(config())


def test_an_address_where_nobody_listens_is_told_at_once() -> None:
    import socket

    with socket.socket() as taken:
        # Bound and not listening: connections are refused, and nobody else gets the port.
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match=rf"executor.address '{address}' cannot be reached: .*allowed: host:port"):
            connection.look(config(address=address))


def test_something_else_that_listens_is_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(connection, "_START_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(
            ConfigError, match=r"executor.address .*: (no answer within 1 s|.*)allowed: the address of a running Ray cluster"
        ):
            connection.look(config(address=address, timeout_s=0.5))
