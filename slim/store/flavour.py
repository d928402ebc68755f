"""What makes a checkpoint's folder an MLflow model besides: ``MLmodel``, the loader and its requirements. No pickle."""

import shutil
from pathlib import Path
from typing import Any

from mlflow.models import Model

from slim.precisions import Precision
from slim.serving import slim_generation as loader

_CODE = "code"
_ENVIRONMENT = "python_env.yaml"
_REQUIREMENTS = "requirements.txt"
_PYTHON = "3.11"
_ALWAYS = ("mlflow", "torch", "transformers>=5", "accelerate", "safetensors")
_OF_METHOD = {"none": (), "gptq": ("compressed-tensors",), "bitsandbytes": ("bitsandbytes>=0.46.1",)}


def write(directory: Path, precision: Precision, *, run_id: str | None, model_id: str, metadata: dict[str, Any]) -> None:
    """Write the files into a directory, made when absent.

    Args:
        directory: where to; the checkpoint's own files are not looked at.
        precision: what the checkpoint is stored as; says dtype and engine.
        run_id: that made it.
        model_id: LoggedModel that it becomes.
        metadata: kept in ``MLmodel``.
    """
    from mlflow.pyfunc import add_to_model

    (directory / _CODE).mkdir(parents=True, exist_ok=True)
    source = Path(loader.__file__)
    shutil.copyfile(source, directory / _CODE / source.name)
    needed = (*_ALWAYS, *_OF_METHOD[precision.method])
    (directory / _REQUIREMENTS).write_text("".join(f"{line}\n" for line in needed), encoding="utf-8")
    (directory / _ENVIRONMENT).write_text(
        f'python: "{_PYTHON}"\nbuild_dependencies:\n- pip\ndependencies:\n- -r {_REQUIREMENTS}\n', encoding="utf-8"
    )
    model = Model(run_id=run_id, model_id=model_id, signature=signature(), metadata=metadata)
    add_to_model(
        model,
        loader_module=source.stem,
        code=_CODE,
        python_env=_ENVIRONMENT,
        model_config={
            **loader.DEFAULTS,
            "dtype": precision.dtype,
            # Where another engine is the only one that it was ever measured on, that one goes first.
            "engine": "auto" if "vllm" in precision.engines else precision.engines[0],
        },
    )
    model.save(str(directory / "MLmodel"))


def signature() -> Any:
    """Return the signature: a prompt or chat messages in, text out, and parameters for length and sampling."""
    from mlflow.models.signature import ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, Object, ParamSchema, ParamSpec, Property, Schema

    message = Object([Property("role", DataType.string), Property("content", DataType.string)])
    types = {"max_tokens": DataType.long, "temperature": DataType.double, "top_p": DataType.double, "seed": DataType.long}
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "prompt", required=False), ColSpec(Array(message), "messages", required=False)]),
        outputs=Schema([ColSpec(DataType.string)]),
        params=ParamSchema([ParamSpec(name, types[name], default) for name, default in loader.PARAMS.items()]),
    )
