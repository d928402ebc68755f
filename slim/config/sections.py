"""The sections of a sweep file: fields, defaults, and what is allowed in each."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from slim import precisions
from slim.config.section import Name, Place, Positive, Seconds, Section, Text, default

_FIDELITY_TOKEN_BYTES = 128
"""Of a token of the text: a few most likely next tokens with their logits, and what is kept of the others together."""


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

    calibration: Place = "HuggingFaceH4/ultrachat_200k"
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


# The first token of a text is not predicted.
_TextTokens = Annotated[int, Field(ge=2, le=1_000_000_000)]


class EvaluateConfig(Section):
    """What accuracy is measured on.

    Attributes:
        tasks: tasks in order.
        limit: items a task at most where the task names no limit of its own.
        apply_chat_template: wrap prompts in the tokenizer's chat template.
        system_prompt: system message, needs the chat template.
        data_dir: local mirror of Hub data sets, laid out ``<organisation>/<name>``.
        perplexity_text: text for ``fidelity/perplexity``: ``python-docs``, a local text file, or None to leave it out.
        perplexity_tokens: tokens of it that are read; all but the first are scored.
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
    data_dir: Place | None = None
    perplexity_text: Place | None = "python-docs"
    perplexity_tokens: _TextTokens = 8192
    fidelity_tokens: _TextTokens | None = 1024
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

    quantize: Place | None = None
    measure: Place | None = None


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
    resources: dict[Name, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.name == "local":
            given = sorted(field for field in self.model_fields_set - {"name"} if getattr(self, field) != default(self, field))
            if given:
                raise ValueError(f"{given[0]} needs name: ray; the local executor runs one worker after another on this machine")
        if self.address is not None and self.address != "auto":
            host, colon, port = self.address.rpartition(":")
            if not colon or not host or "/" in host or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ValueError(
                    f"address {self.address!r}; allowed: host:port of a cluster that this machine belongs to, or auto"
                )
        return self
