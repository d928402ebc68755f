"""The section of a sweep file that says how efficiency is measured."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from slim.config.section import Name, Place, Positive, Seconds, Section


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
        concurrency: requests in flight; None is where the throughput pass found the best rate.
        min_duration_s: steady work at least this long.
        idle_s: how long idle power is measured, with the engine loaded, just before.
        settle_s: without work before that, until clocks and power have come down.
    """

    concurrency: Positive | None = None
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

    source: Place = "python-docs"
    subset: Name | None = None
    split: Name = "train"
    rows: Positive = 2000
    data_dir: Place | None = None


class BatchConfig(Section):
    """The search for the largest batch that fits, for an engine that only memory bounds (transformers).

    Attributes:
        limit: largest batch that is tried.
        requests: numbers of requests that are run at batch 1 and at the largest batch.
    """

    limit: Positive = 32
    requests: tuple[Positive, ...] = (32,)

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
        throughput_min_s: each concurrency is measured at least this long, with more requests if need be.
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
    throughput_min_s: Annotated[float, Field(ge=0)] = 10.0
    batch: BatchConfig | None = BatchConfig()
    load: LoadConfig | None = None
    amortized_batch8: bool = True
    sampling_interval_s: Seconds = 0.1
    peak_bandwidth_gb_s: Annotated[float, Field(gt=0)] | None = None
    cooldown_s: Annotated[float, Field(ge=0)] = 60.0
    energy: EnergyConfig | None = EnergyConfig()

    @model_validator(mode="after")
    def _increasing(self) -> Self:
        if not self.concurrency:
            raise ValueError("concurrency is empty; name at least one, such as [1]")
        if list(self.concurrency) != sorted(set(self.concurrency)):
            raise ValueError(f"concurrency must increase, got {list(self.concurrency)}")
        return self
