"""A configuration small enough for every engine on two cores."""

import json
from pathlib import Path
from typing import Any

SMALL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1024,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "bos_token_id": 1000,
    "eos_token_id": [1001, 1002],
    "pad_token_id": 7,
}
PARAMETERS = 1024 * 256 + 3 * (2 * 256 * 256 + 2 * 128 * 256 + 3 * 256 * 512 + 2 * 256) + 256


def write(directory: Path, **changes: Any) -> Path:
    """Write the configuration with some fields replaced, those that become None left out, and return the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    values = {name: value for name, value in {**SMALL, **changes}.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(values))
    return directory
