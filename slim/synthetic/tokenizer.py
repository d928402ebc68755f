"""A tokenizer for a vocabulary that nobody trained: a token a byte, special tokens where the configuration has them.

Ids that neither needs stand for words of their own, which no text leads to, so that whatever the model generates can be decoded.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

BYTES = 256
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + eos_token + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def special_tokens(config: Mapping[str, Any]) -> dict[int, str]:
    """Return the special tokens by id: end of sequence (the first one is the tokenizer's), beginning, padding.

    Raises:
        ValueError: there is no end of sequence, an id is not of the vocabulary, or there is no room for the bytes.
    """
    vocabulary = int(config["vocab_size"])
    ends = config.get("eos_token_id")
    found: dict[int, str] = {}
    for number, end in enumerate(ends if isinstance(ends, list) and ends else [ends]):
        found.setdefault(_checked("eos_token_id", end, vocabulary), f"<|eos_{number}|>" if number else "<|eos|>")
    for name in ("bos", "pad"):
        if config.get(f"{name}_token_id") is not None:
            found.setdefault(_checked(f"{name}_token_id", config[f"{name}_token_id"], vocabulary), f"<|{name}|>")
    if vocabulary < BYTES + len(found):
        raise ValueError(f"vocab_size {vocabulary} is too small: {BYTES} bytes and {len(found)} special tokens are needed")
    return found


def write(config: Mapping[str, Any], out: Path) -> None:
    """Write the tokenizer's files.

    Args:
        config: one that `special_tokens` accepts.
        out: existing directory.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = special_tokens(config)
    alphabet = iter(sorted(pre_tokenizers.ByteLevel.alphabet()))
    # "Ġ" is how the byte-level alphabet writes a blank.
    vocabulary = {special.get(i) or next(alphabet, None) or f"Ġ{i}": i for i in range(int(config["vocab_size"]))}
    built = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    built.decoder = decoders.ByteLevel()
    built.add_tokens([AddedToken(token, special=True, normalized=False) for token in special.values()])
    ends = config["eos_token_id"]
    eos = special[ends[0] if isinstance(ends, list) else ends]
    bos, pad = (special[config[n]] if config.get(n) is not None else eos for n in ("bos_token_id", "pad_token_id"))
    PreTrainedTokenizerFast(
        tokenizer_object=built,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        # No text is unknown, but classes that stand for a family add a token of their own where none is named.
        unk_token=eos,
        chat_template=CHAT_TEMPLATE,
        model_max_length=int(config["max_position_embeddings"]),
        clean_up_tokenization_spaces=False,
    ).save_pretrained(out)


def _checked(name: str, value: Any, vocabulary: int) -> int:
    if value is None:
        raise ValueError(f"{name} is missing")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < vocabulary:
        raise ValueError(f"{name} must be a token of the vocabulary (0 to {vocabulary - 1}), got {value!r}")
    return value
