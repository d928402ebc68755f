"""What happens on a node, without Ray: a worker that sleeps, on the driver's disk and on another one."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import stand_in
from slim import checkpoint as checkpoints
from slim import models, provenance
from slim.cluster import transfer
from slim.cluster.task import Coming, Ended, Mark, Message, Order, Placed, Reported, work
from slim.cluster.transfer import Chunk, Receiver, Shelf
from slim.config import ModelEntry
from slim.jobs import Job, Spool, StageOrder


class Driver:
    """The sweep's side: a spool, a model, and orders for nodes."""

    def __init__(self, directory: Path) -> None:
        self.spool = Spool(directory / "home" / "spool")
        self.mark = Mark(self.spool.root / "mark", "here", directory / "home")
        self.mark.path.write_text("here")
        self.model = stand_in.make_model(directory, "m")
        self.program = stand_in.install(directory, {"quantize": 0.1, "profile": 0.1})
        self.log = directory / "work.jsonl"

    def order(self, stage: Any, key: str, **fields: Any) -> Order:
        measures = {"engine": "transformers", "checkpoint": fields.pop("checkpoint", None)} if stage != "quantize" else {}
        source = models.resolve(ModelEntry(id=str(self.model)))
        job = Job(source, "bnb-nf4", 1, self.spool.root, (StageOrder(stage, key, {}),), **measures)
        return Order(job, str(self.program), {}, **{"mark": self.mark, **fields})


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    (tmp_path / "driver").mkdir()
    # A task changes the environment of its process, which ends with it.
    for name in ("SLIM_HOME", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, str(tmp_path / "node-home") if name == "SLIM_HOME" else "1")
    return Driver(tmp_path / "driver")


def nothing(*_: object) -> bytes:
    raise AssertionError("nothing had to be read")


def done(order: Order, gpus: tuple[str, ...] = (), read: transfer.ReadAt = nothing) -> list[Message]:
    return list(work(order, list(gpus), 2, read))


def test_on_the_same_disk_the_result_is_in_the_drivers_spool(driver: Driver) -> None:
    messages = done(driver.order("quantize", "k", environment={"OMP_NUM_THREADS": None}))
    assert isinstance(messages[0], Placed)
    assert any(isinstance(m, Reported) for m in messages)
    assert not any(isinstance(m, Coming | Chunk) for m in messages)
    assert isinstance(messages[-1], Ended)
    assert messages[-1].failure is None
    found = driver.spool.find("k")
    assert found is not None
    assert found.checkpoint is not None
    where = json.loads(found.result.tags["slim.placement"])
    assert (where["gpus"], where["overlap"]) == ([], False)
    begun = stand_in.work(driver.log)[0]
    # Ray's own setting is gone, and nothing is pinned where there is no GPU to go by.
    assert begun["threads"] is None
    assert set(begun["cores"]) == os.sched_getaffinity(0)


def test_a_worker_gets_the_cores_of_its_gpus(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    shares = (frozenset(allowed[:1]), frozenset(allowed[-1:]))
    monkeypatch.setattr("slim.cluster.cores.of_this_host", lambda _: shares)
    placed = [done(driver.order("quantize", f"k{gpu}"), (gpu,))[0] for gpu in ("0", "1")]
    unpinned = done(driver.order("quantize", "k2", pin=False), ("0",))[0]
    assert [p.cores for p in (*placed, unpinned) if isinstance(p, Placed)] == [tuple(s) for s in shares] + [()]
    begun = [line for line in stand_in.work(driver.log) if line["what"] == "begin"]
    assert [line["cores"] for line in begun] == [sorted(s) for s in shares] + [allowed]
    # Only the worker is pinned.
    assert sorted(os.sched_getaffinity(0)) == allowed


def test_on_another_disk_files_go_there_and_come_back(driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = done(driver.order("quantize", "q"))
    assert isinstance(made[-1], Ended)
    spooled = driver.spool.find("q")
    assert spooled is not None
    checkpoint = spooled.checkpoint
    assert checkpoint is not None
    # On the same disk a task takes the driver's home for its own.
    monkeypatch.setenv("SLIM_HOME", str(tmp_path / "node-home"))
    hidden = replace(driver.mark, text="of another disk")
    shelf = Shelf()
    files = tuple(shelf.put([str(checkpoint), str(driver.model)]))
    see = transfer.listing

    def blind(path: Path) -> transfer.Listing:
        if path.is_relative_to(tmp_path / "driver"):
            raise FileNotFoundError(path)
        return see(path)

    with monkeypatch.context() as node:
        node.setattr(transfer, "listing", blind)
        messages = done(
            driver.order("profile", "p", checkpoint=checkpoint, mark=hidden, files=files, sweep="s"), ("1",), shelf.read
        )
    (coming,) = [m for m in messages if isinstance(m, Coming)]
    assert driver.spool.find("p") is None
    receiver = Receiver(driver.spool, coming.key, coming.sizes)
    for message in messages:
        if isinstance(message, Chunk):
            receiver.take(message)
    receiver.finish()
    found = driver.spool.find("p")
    assert found is not None
    assert found.result.failure is None
    # The checkpoint was there for the worker, which checks its hashes, and nothing of the result is left behind.
    copies = list((tmp_path / "node-home" / "fetched").glob("*/slim_checkpoint.json"))
    assert len(copies) == 1
    checkpoints.load(copies[0].parent, verify=True)
    assert Spool(tmp_path / "node-home" / "cluster" / "s").find("p") is None


def test_what_cannot_be_brought_is_a_typed_failure(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf()
    files = tuple(shelf.put([str(driver.model)]))
    monkeypatch.setattr(transfer, "listing", lambda path: (_ for _ in ()).throw(FileNotFoundError(path)))
    hidden = replace(driver.mark, text="of another disk")
    ended = done(driver.order("quantize", "q", mark=hidden, files=files), read=lambda *_: b"")[-1]
    assert isinstance(ended, Ended)
    assert ended.failure is not None
    assert (ended.failure.reason, "became shorter" in ended.failure.message) == ("interrupted", True)


def test_a_node_of_other_hardware_measures_nothing(driver: Driver) -> None:
    here = provenance.cpu_hardware()
    assert len(done(driver.order("profile", "p1", hardware=here))) > 2
    other = replace(here, cpu_name="Another CPU")
    messages = done(driver.order("profile", "p2", hardware=other))
    assert len(messages) == 2
    ended = messages[-1]
    assert isinstance(ended, Ended)
    assert ended.failure is not None
    assert "no node that the sweep was planned for" in ended.failure.message
    assert driver.spool.find("p2") is None
