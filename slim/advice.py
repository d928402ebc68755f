"""What a log or a foreign error says about why a stage failed, and what to do about each kind of failure."""

import errno
import re
from typing import Final

from slim.errors import Reason
from slim.records import Failure

_SYMPTOMS: Final = (
    (Reason.DISK_FULL, r"No space left on device|Disk quota exceeded|File too large|os error (?:27|28|122)\b|disk is full"),
    (
        Reason.OUT_OF_MEMORY,
        r"out of memory|OutOfMemoryError|[Cc]an(?:'|no)t allocate memory|std::bad_alloc|\bMemoryError\b|No available memory for the cache",
    ),
    (
        Reason.DRIVER,
        r"CUDA driver version is insufficient|[Nn]o CUDA-capable device|CUDA driver initialization failed|no NVIDIA driver|"
        r"Found no NVIDIA driver|system not yet initialized|uncorrectable (?:ECC|NVLink)|CUDA error: unknown error|"
        r"CUDA error: (?:all CUDA-capable devices are busy|device kernel image is invalid|no kernel image)|"
        r"Driver/library version mismatch|GPU is lost|fallen off the bus",
    ),
)
"""Words that torch, CUDA, safetensors, SQLite, glibc and the kernel use."""

_LOG_CHARS: Final = 2400
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

ADVICE: Final[dict[Reason, str]] = {
    Reason.OUT_OF_MEMORY: "Take less: engines.vllm.max_model_len, max_num_seqs, gpu_memory_utilization or cpu_kv_cache_gib, "
    "evaluate.batch_size, quantize.samples or max_tokens; or a device with more memory, or end what else runs there.",
    Reason.DISK_FULL: "Make room on the disk of SLIM_HOME and of the store, or set SLIM_HOME to another disk; finished work is kept.",
    Reason.UNSUPPORTED_SCHEME: "Take another precision or engine for this model; `python -m entrypoints.doctor` lists what works here.",
    Reason.UNSUPPORTED_MODEL: "Look whether the model's directory is whole and its architecture known to the installed engine; try the "
    "other engine.",
    Reason.MISSING_PACKAGE: "Install the environment of docs/environments.md; `python -m entrypoints.doctor` says what is missing.",
    Reason.MODEL_UNAVAILABLE: "Look at the model's name, revision and access rights (HF_TOKEN), the network, and the room on the disk.",
    Reason.DATA_UNAVAILABLE: "Fetch the data set once with the command of the message, or name a mirror with data_dir.",
    Reason.CHECKPOINT_MISMATCH: "The files are not those that were written: delete them, or run the quantize entry point with --rerun.",
    Reason.ENGINE_START: "Read the log's end; `python -m entrypoints.doctor` says what these packages and this hardware can run.",
    Reason.ENGINE_CRASH: "Run the same command again; if it crashes again, read the log's end and try enforce_eager or the other engine.",
    Reason.EVALUATION: "Look at the task's name and settings, and at the log's end.",
    Reason.TIMEOUT: "Raise the stage's limit in the section timeouts of the sweep file, or ask for less work; what was finished is kept.",
    Reason.KILLED: "Somebody or something killed the worker; run the same command again: what was finished is kept.",
    Reason.INTERRUPTED: "Run the same command again: it goes on where it was.",
    Reason.DEPENDENCY: "See the failure that it names.",
    Reason.DRIVER: "Look at nvidia-smi and the kernel's log, and at the driver's version; the GPU may need a reset or a reboot.",
    Reason.BROKEN_RESULT: "Run the same command again; if it happens again, look at the interpreter that the sweep file names and at the disk.",
    Reason.INTERNAL: "This is a fault of the program or of a package: read the log's end, and report it.",
}


def symptom(text: str) -> Reason | None:
    """Return the reason that a log's end or an error's text gives away; None where it does not."""
    return next((reason for reason, words in _SYMPTOMS if re.search(words, text)), None)


def of_error(error: BaseException) -> Reason | None:
    """Return the reason that a foreign error, or one that it came from, gives away; None where it does not."""
    seen: BaseException | None = error
    for _ in range(10):
        if seen is None:
            return None
        if isinstance(seen, OSError) and seen.errno in _FULL:
            return Reason.DISK_FULL
        if isinstance(seen, MemoryError) or (isinstance(seen, OSError) and seen.errno == errno.ENOMEM):
            return Reason.OUT_OF_MEMORY
        found = symptom(f"{type(seen).__name__}: {seen}")
        if found is not None:
            return found
        seen = seen.__cause__ or seen.__context__
    return None


def describe(failure: Failure) -> str:
    """Return a failure as the description of a run, as Markdown: what happened, what to do, and the log's end."""
    text = f"**{failure.reason}**: {failure.message}\n\n{ADVICE[failure.reason]}"
    if failure.log_tail:
        # The end says most, and the description has to be short.
        text += f"\n\n```\n{failure.log_tail[-_LOG_CHARS:].replace('```', chr(39) * 3)}\n```"
    return text
