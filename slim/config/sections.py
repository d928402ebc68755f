"""The sections of a sweep file: fields, defaults, and what is allowed in each."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from slim import precisions


def _printable(value: str) -> str:
    """Names end up in paths, terminals, logs and pages."""
    if not value.isprintable():
        raise ValueError(f"{value!r} holds a control character or an invisible one; allowed: letters, digits, signs and blanks")
    return value


Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200), AfterValidator(_printable)]
Text = Annotated[str, StringConstraints(max_length=100_000)]
Positive = Annotated[int, Field(gt=0, le=1_000_000_000)]
Seconds = Annotated[float, Field(gt=0)]


_FIDELITY_TOKEN_BYTES = 128
"""Of a token of the text: a few most likely next tokens with their logits, and what is kept of the others together."""


class Section(BaseModel):
    """Base of all sections: unknown keys are refused, values are not coerced into another type, records do not change.

    Numbers are finite.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelEntry(Section):
    """A model of the sweep.

    Attributes:
        id: Hub id, local directory, GGUF file, ``embedded``, or ``synthetic:<preset>``.
        revision: Hub branch, tag or commit; None is the default branch.
        trust_remote_code: run code that comes with the model; off unless the user asks for it.
    """

    id: Name
    revision: Name | None = None
    trust_remote_code: bool = False


class PrecisionEntry(Section):
    """A precision on an engine. In a sweep file also ``<precision>`` or ``<precision>@<engine>``.

    Attributes:
        precision: a name of `slim.precisions.CATALOGUE`.
        engine: ``vllm`` or ``transformers``; None is the precision's preferred engine.
    """

    precision: Name
    engine: Name | None = None

    @model_validator(mode="after")
    def _served(self) -> Self:
        precisions.serve(self.precision, self.engine)
        return self


class QuantizeConfig(Section):
    """How checkpoints are made. Defaults are SLiM-Eval's.

    Attributes:
        calibration: Hub data set of chats, ``python-docs`` (text installed with Python), or a local text file.
        calibration_split: split of that data set.
        samples: calibration samples.
        max_tokens: tokens of a sample at most.
        group_size: weights that share a scale, for grouped precisions.
        damping: fraction of the mean diagonal added to GPTQ's Hessian.
        ignore: layers left in 16 bit (names or ``re:`` patterns, as compressed-tensors has them).
    """

    calibration: Name = "HuggingFaceH4/ultrachat_200k"
    calibration_split: Name = "train_sft"
    samples: Positive = 512
    max_tokens: Positive = 2048
    group_size: Positive = 128
    damping: Annotated[float, Field(gt=0, lt=1)] = 0.01
    ignore: tuple[Name, ...] = ("lm_head",)

    @field_validator("ignore")
    @classmethod
    def _patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                re.compile(pattern.removeprefix("re:") if pattern.startswith("re:") else "")
            except re.error as error:
                raise ValueError(f"{pattern!r} is no regular expression ({error})") from None
        return value


class TaskEntry(Section):
    """A task of the harness, or a group of tasks. In a sweep file also just its name.

    Attributes:
        name: the harness's name, or one of the built-in offline tasks.
        num_fewshot: examples in the prompt; None is the task's own default.
        limit: items at most, the first ones; None is all (for a group: per task).
    """

    name: Name
    num_fewshot: Annotated[int, Field(ge=0, le=1000)] | None = None
    limit: Positive | None = None


class EvaluateConfig(Section):
    """What accuracy is measured on.

    Attributes:
        tasks: tasks in order.
        limit: items a task at most where the task names no limit of its own.
        apply_chat_template: wrap prompts in the tokenizer's chat template.
        system_prompt: system message, needs the chat template.
        data_dir: local mirror of Hub data sets, laid out ``<organisation>/<name>``.
        perplexity_text: text for ``fidelity/perplexity``: ``python-docs``, a local text file, or None to leave it out.
        perplexity_tokens: tokens of it that are scored.
        fidelity_tokens: tokens of it over which a configuration's next-token distributions are compared with its baseline's;
            None leaves the comparison out.
        fidelity_max_mib: size of the file in which a baseline keeps its distributions; what does not fit is bounded.
        max_gen_tokens: new tokens at most where a task does not say.
        batch_size: sequences a batch, for engines without continuous batching.
    """

    tasks: tuple[TaskEntry, ...] = (
        TaskEntry(name="mmlu", num_fewshot=5),
        TaskEntry(name="gsm8k", num_fewshot=5),
        TaskEntry(name="hellaswag", num_fewshot=0),
    )
    limit: Positive | None = None
    apply_chat_template: bool = False
    system_prompt: Text | None = None
    data_dir: Name | None = None
    perplexity_text: Name | None = "python-docs"
    perplexity_tokens: Positive = 8192
    fidelity_tokens: Annotated[int, Field(ge=2, le=1_000_000_000)] | None = 1024
    fidelity_max_mib: Positive = 64
    max_gen_tokens: Positive = 256
    batch_size: Positive = 16

    @field_validator("tasks", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        return tuple({"name": v} if isinstance(v, str) else v for v in value) if isinstance(value, list | tuple) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.tasks:
            raise ValueError("tasks is empty; name at least one, or set `evaluate: null` to skip the stage")
        names = [task.name for task in self.tasks]
        if len(set(names)) != len(names):
            raise ValueError(f"tasks names one twice: {', '.join(sorted({n for n in names if names.count(n) > 1}))}")
        if self.system_prompt is not None and not self.apply_chat_template:
            raise ValueError("system_prompt needs apply_chat_template: true")
        needed_mib = -(-(self.fidelity_tokens or 0) * _FIDELITY_TOKEN_BYTES // (1 << 20))
        if self.fidelity_max_mib < needed_mib:
            raise ValueError(
                f"fidelity_max_mib {self.fidelity_max_mib} has no room for fidelity_tokens {self.fidelity_tokens}; allowed: at least "
                f"{needed_mib}"
            )
        return self

    @property
    def measures_fidelity(self) -> bool:
        """Whether configurations are compared with their baseline token by token."""
        return self.perplexity_text is not None and self.fidelity_tokens is not None


class WarmupConfig(Section):
    """Requests that are run and thrown away before a measurement.

    Attributes:
        min_requests: at least these.
        max_requests: at most these; reaching it unsettled is a validity flag.
        tolerance: settled when the last five request times, or the medians of the last five and of the five before, differ by less
            than this fraction of their mean.
    """

    min_requests: Positive = 10
    max_requests: Positive = 50
    tolerance: Annotated[float, Field(gt=0, lt=1)] = 0.02

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_requests < self.min_requests:
            raise ValueError(f"max_requests ({self.max_requests}) is below min_requests ({self.min_requests})")
        return self


class EnergyConfig(Section):
    """The energy pass, run where the device has a power reading.

    Attributes:
        min_duration_s: steady work at least this long.
        idle_s: how long idle power is measured, with the engine loaded, just before.
        settle_s: without work before that, until clocks and power have come down.
    """

    min_duration_s: Seconds = 30.0
    idle_s: Seconds = 10.0
    settle_s: Annotated[float, Field(ge=0)] = 2.0


class PromptsConfig(Section):
    """Where the prompts' text comes from. Prompts are windows of it, so all have the same length and begin differently.

    Attributes:
        source: ``python-docs`` (text installed with Python), a local text file, a local ``.jsonl`` file whose lines have
            ``messages`` (the chat template is applied) or ``text``, or a Hub data set of either.
        subset: of a Hub data set, such as ``wikitext-2-raw-v1``; None is its default.
        split: of a Hub data set.
        rows: of a data set or ``.jsonl`` file at most, the first ones.
        data_dir: local mirror of Hub data sets, laid out ``<organisation>/<name>``.
    """

    source: Name = "python-docs"
    subset: Name | None = None
    split: Name = "train"
    rows: Positive = 2000
    data_dir: Name | None = None


class BatchConfig(Section):
    """The search for the largest batch that fits, for an engine that only memory bounds (transformers).

    Attributes:
        limit: largest batch that is tried.
        requests: numbers of requests that are run at batch 1 and at the largest batch.
    """

    limit: Positive = 32
    requests: tuple[Positive, ...] = (32,)

    @field_validator("requests", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _full(self) -> Self:
        if not self.requests:
            raise ValueError("requests is empty; name at least one number, such as [32], or set `batch: null`")
        if len(set(self.requests)) != len(self.requests):
            raise ValueError(f"requests names a number twice: {list(self.requests)}")
        if self.limit > min(self.requests):
            raise ValueError(f"limit {self.limit} is beyond requests {list(self.requests)}, which would not fill such a batch")
        return self


class LoadConfig(Section):
    """Open-loop load: Poisson arrivals at given rates, for an engine with continuous batching (vLLM).

    Attributes:
        rates_per_s: requests a second, increasing; each is measured.
        requests: of each rate.
        ttft_ms: target of the time to first token, waiting included.
        tpot_ms: target of the time per output token.
    """

    rates_per_s: tuple[Annotated[float, Field(ge=0.001, le=100_000)], ...]
    requests: Positive = 200
    ttft_ms: Annotated[float, Field(gt=0)] = 500.0
    tpot_ms: Annotated[float, Field(gt=0)] = 50.0

    @field_validator("rates_per_s", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _increasing(self) -> Self:
        if not self.rates_per_s:
            raise ValueError("rates_per_s is empty; name at least one, such as [1], or set `load: null`")
        names = [f"{rate:g}" for rate in self.rates_per_s]
        if list(self.rates_per_s) != sorted(self.rates_per_s) or len(set(names)) != len(names):
            raise ValueError(f"rates_per_s must increase, by more than their seventh digit, got {list(self.rates_per_s)}")
        return self


class ProfileConfig(Section):
    """What efficiency is measured on: every configuration gets the same lengths.

    Attributes:
        input_tokens: tokens of each prompt.
        output_tokens: tokens generated for each, end of sequence ignored.
        prompts: where their text comes from.
        requests: measured requests of the latency pass.
        warmup: what runs before.
        concurrency: concurrencies of the throughput pass, in order; it ends early when the rate stops growing.
        requests_per_concurrency: requests at concurrency n: this many times n, at least.
        batch: the search for the largest batch; None leaves it out. vLLM's is read off the throughput pass.
        load: open-loop load; None leaves it out.
        amortized_batch8: also measure `latency/amortized_b8_ms`.
        sampling_interval_s: between readings of power, utilization, memory, temperature and clock.
        peak_bandwidth_gb_s: of the device's memory, for `efficiency/mbu`; None measures it with a copy test.
        cooldown_s: at most this long before a configuration until the GPU is as cool as before the first one.
        energy: the energy pass; None leaves it out.
    """

    input_tokens: Positive = 256
    output_tokens: Annotated[int, Field(ge=2, le=1_000_000_000)] = 256
    prompts: PromptsConfig = PromptsConfig()
    requests: Positive = 50
    warmup: WarmupConfig = WarmupConfig()
    concurrency: tuple[Positive, ...] = (1, 8, 32, 64, 128, 256)
    requests_per_concurrency: Positive = 4
    batch: BatchConfig | None = BatchConfig()
    load: LoadConfig | None = None
    amortized_batch8: bool = True
    sampling_interval_s: Seconds = 0.1
    peak_bandwidth_gb_s: Annotated[float, Field(gt=0)] | None = None
    cooldown_s: Annotated[float, Field(ge=0)] = 60.0
    energy: EnergyConfig | None = EnergyConfig()

    @field_validator("concurrency", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    @model_validator(mode="after")
    def _increasing(self) -> Self:
        if not self.concurrency:
            raise ValueError("concurrency is empty; name at least one, such as [1]")
        if list(self.concurrency) != sorted(set(self.concurrency)):
            raise ValueError(f"concurrency must increase, got {list(self.concurrency)}")
        return self


class ComparisonConfig(Section):
    """How a configuration's answers are compared with its baseline's. Nothing is run again when it changes.

    Attributes:
        margin: loss of accuracy that does not matter, as a fraction: 0.02 is two points.
        confidence: one-sided, of the verdict that a configuration is non-inferior by that margin, or inferior.
        resamples: of the bootstrap intervals.
    """

    margin: Annotated[float, Field(gt=0, lt=1)] = 0.02
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    resamples: Annotated[int, Field(ge=100, le=1_000_000)] = 10_000


class VllmOptions(Section):
    """Options of the vLLM engine; part of a configuration's identity.

    Attributes:
        max_model_len: context, capped at the model's own.
        gpu_memory_utilization: share of the GPU that weights and cache may take.
        max_num_seqs: sequences in flight at most.
        enforce_eager: no compilation and no CUDA graphs; starts faster, runs slower.
        cpu_kv_cache_gib: cache on a CPU, which has no share to take it from.
        tensor_parallel_size: GPUs that one model is spread over.
    """

    max_model_len: Positive = 8192
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    max_num_seqs: Positive = 256
    enforce_eager: bool = False
    cpu_kv_cache_gib: Annotated[float, Field(gt=0)] = 2.0
    tensor_parallel_size: Positive = 1


class TransformersOptions(Section):
    """Options of the transformers engine; part of a configuration's identity.

    Attributes:
        max_model_len: context, capped at the model's own.
        attention: attention implementation.
    """

    max_model_len: Positive = 8192
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"


class EnginesConfig(Section):
    """Options of each engine."""

    vllm: VllmOptions = VllmOptions()
    transformers: TransformersOptions = TransformersOptions()


class InterpretersConfig(Section):
    """Python interpreters of the workers; None is the one that runs the sweep.

    Attributes:
        quantize: needs llmcompressor or bitsandbytes.
        measure: needs the engines and the harness.
    """

    quantize: Name | None = None
    measure: Name | None = None


class TimeoutsConfig(Section):
    """Wall seconds after which a worker is stopped and its stage failed with reason ``timeout``."""

    quantize_s: Seconds = 4 * 3600.0
    profile_s: Seconds = 2 * 3600.0
    evaluate_s: Seconds = 12 * 3600.0


class ExecutorConfig(Section):
    """Where workers run. In a sweep file also just its name.

    Attributes:
        name: ``local``, one worker after another on this machine, or ``ray``, on the nodes of a Ray cluster, several at once.
        address: of a running cluster (``host:port``, or ``auto`` for one on this machine); None starts one on this machine that ends
            with the sweep.
        gpus: that each configuration is measured on; None is ``engines.vllm.tensor_parallel_size``, or 0 where no node has a GPU.
        quantize_gpus: that a checkpoint is made on; 0 where no node has a GPU.
        overlap: profile several configurations at once on a host, each on GPUs and cores of its own; else one at a time, with
            quantizing and evaluating on the other GPUs beside it.
        pin: give each worker the cores that belong to its GPUs.
        retries: times that work is begun again elsewhere when its node is lost; stages that fail are not tried again.
        timeout_s: how long the cluster may take to answer, and to have a node that fits when one was lost.
        resources: further Ray resources of every worker, to choose among the nodes: ``{"accelerator_type:H100": 0.001}``.
    """

    name: Literal["local", "ray"] = "local"
    address: Name | None = None
    gpus: Annotated[int, Field(ge=0)] | None = None
    quantize_gpus: Annotated[int, Field(ge=0)] = 1
    overlap: bool = False
    pin: bool = True
    retries: Annotated[int, Field(ge=0, le=100)] = 2
    timeout_s: Seconds = 30.0
    resources: dict[Name, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = {}

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.name == "local":
            given = sorted(field for field in self.model_fields_set - {"name"} if getattr(self, field) != _default(self, field))
            if given:
                raise ValueError(f"{given[0]} needs name: ray; the local executor runs one worker after another on this machine")
        if self.address is not None and self.address != "auto":
            host, colon, port = self.address.rpartition(":")
            if not colon or not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ValueError(
                    f"address {self.address!r}; allowed: host:port of a cluster that this machine belongs to, or auto"
                )
        return self


def _default(section: Section, field: str) -> Any:
    return type(section).model_fields[field].default
