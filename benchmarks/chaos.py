"""A sweep that is killed again and again: is anything lost, done twice, left half-done or measured otherwise?

    python -m benchmarks.chaos [--rounds 50] [--seed 0] [--cold | --stand-in]

Each round sweeps a tiny model at two precisions, one of them quantized (transformers engine; profiled and evaluated), into an empty
store, and kills worker, driver or both, with SIGKILL or SIGTERM, at random moments of the time that an undisturbed sweep takes. The
same command is started again until it ends well. Then each configuration must have finished once, no stage may have been begun again
after it had finished, no run may be left RUNNING, no process and no half-written file may be left, the checkpoint must have the hashes
of its manifest, and the metrics that do not depend on the clock must be those of the undisturbed sweep. The peer is the undisturbed
sweep. Target: no miss in 50 rounds.

Drivers and workers are forked from a process that has imported everything, so that kills meet work and not imports; ``--cold`` starts
real interpreters, and takes several times as long; with ``--stand-in`` the stages take a moment and compute nothing, so that kills meet
the spool, the store and what lies between, fifty rounds in minutes and without an engine.
"""

import argparse
import ctypes
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil

from benchmarks import chaos_checks as checks
from benchmarks import warm
from slim.jobs import Spool
from slim.provenance import ROOT
from slim.store import Store
from slim.store.connection import open_client

TARGET_ROUNDS = 50
MAKES_STORE = 10
"""Every so many rounds the store is made by the sweep too."""
Victim = Literal["worker", "driver", "both"]
SWEEP: dict[str, Any] = {
    "precisions": ["bf16@transformers", "bnb-int8@transformers"],
    "evaluate": {
        "tasks": [{"name": "slim_facts", "limit": 4}, {"name": "slim_completion", "limit": 4}],
        "perplexity_tokens": 64,
        "fidelity_tokens": 32,
    },
    "profile": {
        "input_tokens": 8,
        "output_tokens": 4,
        "requests": 2,
        "warmup": {"min_requests": 5, "max_requests": 5, "tolerance": 0.9},
        "concurrency": [1],
        "requests_per_concurrency": 1,
        "throughput_min_s": 0,
        "batch": None,
        "amortized_batch8": False,
        "peak_bandwidth_gb_s": 10.0,
        "energy": None,
        "cooldown_s": 0.0,
    },
    "repeats": 1,
    "engines": {"transformers": {"max_model_len": 256}},
}


@dataclass(frozen=True)
class Kill:
    """One blow.

    Attributes:
        victim: whom it hits.
        sent: the signal.
        after_s: seconds after the driver was started.
    """

    victim: Victim
    sent: signal.Signals
    after_s: float

    def __str__(self) -> str:
        return f"{self.victim} {self.sent.name.removeprefix('SIG')} {self.after_s:.1f}s"


@dataclass(frozen=True)
class Round:
    """How a round went.

    Attributes:
        kills: those that met somebody.
        starts: of the driver.
        wall_s: of it all.
        misses: what was not as it should be.
    """

    kills: tuple[Kill, ...]
    starts: int
    wall_s: float
    misses: tuple[str, ...]


class Chaos:
    """Runs rounds.

    Args:
        directory: for everything.
        cold: start interpreters instead of forking.
        stand_in: stages that compute nothing.
    """

    def __init__(self, directory: Path, cold: bool = False, stand_in: bool = False) -> None:
        self.directory = directory
        self.cold = cold
        self.stand_in = stand_in
        self.undisturbed_s = 0.0
        self.reference: dict[str, dict[str, float]] = {}
        directory.mkdir(parents=True, exist_ok=True)
        # What its parents leave behind comes to this process, so that it is seen.
        ctypes.CDLL(None).prctl(36, 1)

    def prepare(self, model: Path) -> None:
        """Run the sweep undisturbed, for its time and its metrics."""
        (self.directory / "sweep.json").write_text(json.dumps({**SWEEP, "models": [str(model)]}))
        home = self.directory / "undisturbed"
        home.mkdir()
        open_client(f"sqlite:///{self.directory / 'empty.db'}")
        shutil.copy2(self.directory / "empty.db", home / "mlflow.db")
        start = time.monotonic()
        process = self._start(home)
        if process.wait(600) != 0:
            raise RuntimeError((home / "driver.log").read_text())
        self.undisturbed_s = time.monotonic() - start
        runs = self._store(home).configurations()
        self.reference = {run.name: checks.deterministic(run) for run in runs}
        if len(runs) != 2 or (found := self._missed(home, checks.Finished())):
            raise RuntimeError(f"the undisturbed sweep is not as it should be: {found if len(runs) == 2 else runs}")

    def round(self, seed: int, limit: int = 12) -> Round:
        """Sweep, kill, start again until it ends well, check.

        Args:
            seed: of what is done to whom and when.
            limit: starts at most.
        """
        chance = random.Random(seed)
        home = self.directory / f"round{seed}"
        if seed % MAKES_STORE:
            # Making the store takes longer than the sweep.
            home.mkdir()
            shutil.copy2(self.directory / "empty.db", home / "mlflow.db")
        planned = [_draw(chance, self.undisturbed_s) for _ in range(chance.randint(1, 4))]
        done: list[Kill] = []
        finished = checks.Finished()
        begun, status, starts = time.monotonic(), None, 0
        while status != 0 and starts < limit:
            starts += 1
            process, started = self._start(home), time.monotonic()
            while planned and _alive(process, started + planned[0].after_s):
                kill = planned.pop(0)
                if _strike(process, kill):
                    done.append(kill)
                if kill.victim != "worker":
                    break
            status = process.wait(600)
            self._look(home, finished)
        found = [] if status == 0 else [f"after {starts} starts the sweep still ends with {status}"]
        found += self._missed(home, finished)
        if not found:
            shutil.rmtree(home)
        return Round(tuple(done), starts, time.monotonic() - begun, tuple(found))

    def _start(self, home: Path) -> Any:
        home.mkdir(exist_ok=True)
        arguments = ["--config", str(self.directory / "sweep.json"), "--tracking-uri", f"sqlite:///{home / 'mlflow.db'}"]
        environment = {**os.environ, "SLIM_HOME": str(home), "MLFLOW_DISABLE_TELEMETRY": "true"}
        if not self.cold:
            return warm.start_sweep(arguments, home / "driver.log", environment, self.stand_in)
        with (home / "driver.log").open("ab") as log:
            command = [sys.executable, "-m", "entrypoints.sweep", *arguments]
            return psutil.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)

    def _store(self, home: Path) -> Store:
        store = Store.open(f"sqlite:///{home / 'mlflow.db'}", "slim")
        assert store is not None
        return store

    def _look(self, home: Path, finished: checks.Finished) -> None:
        if (home / "mlflow.db").exists():
            finished.look(Spool(home / "spool"), self._store(home), time.time())

    def _missed(self, home: Path, finished: checks.Finished) -> list[str]:
        found = checks.misses(self._store(home), Spool(home / "spool"), finished, self.reference)
        # What was told to die is given a moment for it.
        _, left = psutil.wait_procs(psutil.Process().children(recursive=True), timeout=3)
        for process in left:
            process.kill()
        return found + ([f"{len(left)} processes are left"] if left else [])


def _draw(chance: random.Random, span_s: float) -> Kill:
    victim: Victim = chance.choice(("worker", "driver", "both"))
    return Kill(victim, chance.choice((signal.SIGKILL, signal.SIGTERM)), chance.uniform(0.0, span_s))


def _alive(process: Any, until_s: float) -> bool:
    """Wait; whether the process is still there then."""
    while time.monotonic() < until_s:
        if process.poll() is not None:
            return False
        time.sleep(0.005)
    return process.poll() is None


def _strike(process: Any, kill: Kill) -> bool:
    """Kill; whether there was anybody to kill."""
    try:
        workers = psutil.Process(process.pid).children()
        victims = [
            *(workers if kill.victim != "driver" else ()),
            *([psutil.Process(process.pid)] if kill.victim != "worker" else ()),
        ]
        for victim in victims:
            victim.send_signal(kill.sent)
    except psutil.NoSuchProcess:
        return False
    return bool(victims)


def main(given: Sequence[str] | None = None) -> int:
    """Run, print, compare with the target."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=TARGET_ROUNDS)
    parser.add_argument("--seed", type=int, default=0, help="of the first round; the others count on")
    parser.add_argument("--cold", action="store_true", help="start interpreters instead of forking")
    parser.add_argument("--stand-in", action="store_true", help="stages that compute nothing")
    parser.add_argument("--keep", type=Path, help="directory for the files, a missed round's among them")
    arguments = parser.parse_args(given)
    with tempfile.TemporaryDirectory() as directory:
        place = arguments.keep or Path(directory)
        chaos = Chaos(place, arguments.cold, arguments.stand_in)
        _model(place / "tiny")
        if not arguments.cold:
            warm.up(arguments.stand_in)
        chaos.prepare(place / "tiny")
        print(f"undisturbed: {chaos.undisturbed_s:.1f} s, {len(chaos.reference)} configurations", flush=True)
        print(f"{'round':>5}  {'starts':>6}  {'time s':>6}  {'misses':>6}  kills", flush=True)
        missed = 0
        for seed in range(arguments.seed, arguments.seed + arguments.rounds):
            went = chaos.round(seed)
            missed += bool(went.misses)
            kills = ", ".join(map(str, went.kills)) or "none met anybody"
            print(f"{seed:>5}  {went.starts:>6}  {went.wall_s:>6.1f}  {len(went.misses):>6}  {kills}", flush=True)
            for miss in went.misses:
                print(f"       {miss}", flush=True)
    verdict = (
        "missed" if missed else "met" if arguments.rounds >= TARGET_ROUNDS else "not missed, in fewer rounds than it asks for"
    )
    print(f"rounds missed: {missed} of {arguments.rounds}, target 0 of {TARGET_ROUNDS}: {verdict}")
    return 1 if missed else 0


def _model(directory: Path) -> None:
    """Make the model in a process of its own: torch must not have computed in this one."""
    if not directory.exists():
        code = f"from pathlib import Path; from tests.tiny import make_tiny_model; make_tiny_model(Path({str(directory)!r}))"

        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


if __name__ == "__main__":
    sys.exit(main())
