"""What a checkpoint's configuration says about sizes, read without loading weights."""

from pathlib import Path
from typing import Any

from slim.errors import Reason, StageError

_CONTEXT_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length")


def load_config(checkpoint: Path, trust_remote_code: bool) -> Any:
    """Return the configuration of the checkpoint's text model.

    Raises:
        StageError: transformers is missing, there is no configuration, or its architecture is unknown.
    """
    try:
        from transformers import AutoConfig
    except ImportError as error:
        raise StageError(Reason.MISSING_PACKAGE, f"package transformers cannot be imported: {one_line(error)}") from error
    try:
        config = AutoConfig.from_pretrained(str(checkpoint), trust_remote_code=trust_remote_code)
    except OSError as error:
        raise StageError(Reason.MODEL_UNAVAILABLE, f"cannot read the model's configuration: {one_line(error)}") from error
    except (ValueError, KeyError) as error:
        raise StageError(Reason.UNSUPPORTED_MODEL, f"cannot read the model's configuration: {one_line(error)}") from error
    return config.get_text_config()


def is_causal(config: Any) -> bool:
    """Whether transformers knows a causal language model for this configuration."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not getattr(config, "is_encoder_decoder", False)


def context_length(config: Any, wanted: int) -> int:
    """Return the context in tokens: ``wanted``, capped at the model's own where it names one."""
    own = [value for value in (getattr(config, field, None) for field in _CONTEXT_FIELDS) if isinstance(value, int)]
    return min([wanted, *own])


def kv_bytes_per_token(config: Any, bytes_per_value: int) -> int | None:
    """Return the cache that one token takes: keys and values of all layers and key-value heads.

    None when the configuration does not describe plain (grouped-query) attention in every layer.
    """
    layers = getattr(config, "num_hidden_layers", None)
    heads = getattr(config, "num_attention_heads", None)
    hidden = getattr(config, "hidden_size", None)
    if not (isinstance(layers, int) and isinstance(heads, int) and isinstance(hidden, int)):
        return None
    kinds = getattr(config, "layer_types", None) or []
    if getattr(config, "kv_lora_rank", None) is not None or any("attention" not in k or "linear" in k for k in kinds):
        return None
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    return int(2 * layers * kv_heads * head_dim * bytes_per_value)


def module_bytes(model: Any) -> int:
    """Return the bytes of a torch module's parameters and saved buffers, storage that is shared (tied weights) once.

    Buffers that are computed rather than loaded, such as tables of rotary embeddings, do not count: they are no weights
    and each engine keeps others. The scales of bitsandbytes weights, neither parameters nor buffers, count.
    """
    storages: dict[tuple[str, int], int] = {}
    for tensor in _tensors(model):
        if not tensor.is_meta:
            storage = tensor.untyped_storage()
            storages[str(tensor.device), storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def one_line(error: BaseException) -> str:
    """Return the error's message as one line, its type's name where it has none."""
    return " ".join(str(error).split())[:500] or type(error).__name__


def _tensors(model: Any) -> Any:
    for parameter in model.parameters():
        yield parameter.data
        state = getattr(parameter, "quant_state", None)
        while state is not None:
            yield from (t for t in (state.absmax, state.code, state.offset) if hasattr(t, "untyped_storage"))
            state = state.state2
        scales = getattr(parameter, "SCB", None)
        if scales is not None:
            yield scales
    for module in model.modules():
        computed = module._non_persistent_buffers_set
        yield from (b for name, b in module.named_buffers(recurse=False) if name not in computed)
