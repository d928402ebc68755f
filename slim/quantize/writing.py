"""What both families do to load a model's original weights and to write a quantized model down."""

import contextlib
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from slim.errors import Reason, StageError
from slim.layout import side_files
from slim.precisions import Precision


def load(source: Path, precision: Precision, *, trust_remote_code: bool, **options: Any) -> Any:
    """Load a causal language model from a directory, in evaluation mode.

    Args:
        source: directory in Hugging Face layout.
        precision: names the dtype of what is not quantized.
        trust_remote_code: run code that comes with the model.
        options: of ``from_pretrained``.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        source,
        dtype=getattr(torch, precision.dtype),
        trust_remote_code=trust_remote_code,
        use_safetensors=True,
        local_files_only=True,
        **options,
    )
    return model.eval()


def load_tokenizer(source: Path, *, trust_remote_code: bool) -> Any:
    """Load a directory's tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code, local_files_only=True)


def save(model: Any, out: Path, **options: Any) -> None:
    """Write weights and configuration to a directory as safetensors."""
    from transformers import GenerationConfig

    # The original generation defaults are copied as a file; some published ones do not pass the check on saving.
    defaults, model.generation_config = model.generation_config, GenerationConfig()
    try:
        with warnings.catch_warnings():
            # llmcompressor marks layers as offloaded even where everything is in host memory.
            warnings.filterwarnings("ignore", message="Attempting to save a model with offloaded modules")
            model.save_pretrained(out, **options)
    finally:
        model.generation_config = defaults


def copy_side_files(source: Path, out: Path, *, with_code: bool) -> None:
    """Copy tokenizer, chat template and generation defaults byte for byte."""
    (out / "generation_config.json").unlink(missing_ok=True)
    for file in side_files(source, with_code=with_code):
        shutil.copyfile(file, out / file.name)


@contextlib.contextmanager
def translated(name: str) -> Iterator[None]:
    """Turn what torch and transformers raise into this library's errors.

    Args:
        name: what is being made, named in the messages.
    """
    import torch

    try:
        yield
    except ImportError as error:
        raise StageError(Reason.MISSING_PACKAGE, f"{name} needs a package: {_line(error)}") from error
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise StageError(Reason.OUT_OF_MEMORY, f"{name}: out of memory") from error
    except ValueError as error:
        if "does not recognize this architecture" in str(error) or "Unrecognized configuration class" in str(error):
            raise StageError(
                Reason.UNSUPPORTED_MODEL, f"{name}: the installed transformers does not know this architecture"
            ) from error
        raise
    except torch.fx.proxy.TraceError as error:
        raise StageError(
            Reason.UNSUPPORTED_MODEL, f"{name}: llmcompressor cannot trace this architecture: {_line(error)}"
        ) from error
    except OSError as error:
        raise StageError(Reason.INTERNAL, f"{name}: {_line(error)}") from error


@contextlib.contextmanager
def few_words() -> Iterator[None]:
    """Keep progress bars out of the log, which a worker's failure is read from. Works for bars made after this."""
    before = os.environ.get("TQDM_DISABLE")
    # Read once, when tqdm is imported, which transformers does.
    os.environ["TQDM_DISABLE"] = "1"
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
        if before is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = before


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
