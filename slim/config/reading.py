"""YAML from people: safe, without the surprises that the format allows."""

from typing import Any

import yaml

from slim.errors import ConfigError

_DEEPEST = 40
"""Levels of a sweep file; its own fields need six."""
_MOST_VALUES = 100_000
"""Values of a sweep file once aliases are followed; a few lines of them can stand for billions."""


class _Loader(yaml.SafeLoader):
    """Plain values only, and no key twice: YAML's loaders let the last one win in silence."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if (key.tag, key.value) in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands here twice", key.start_mark
                    )
                seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def parse(text: str) -> Any:
    """Return what a YAML text holds.

    Raises:
        ConfigError: one line without the text's name: not YAML, a tag for anything but plain values, a key twice, nested or
            multiplied by aliases beyond measure.
    """
    try:
        values = yaml.load(text, _Loader)
    except RecursionError:
        raise ConfigError(f"is not YAML that can be read: nested deeper than {_DEEPEST} levels") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # A date that does not exist and a number of thousands of digits are plain ValueErrors.
        raise ConfigError(f"is not YAML: {' '.join(str(error).split())[:300]}") from None
    _measure(values)
    return values


def _measure(values: Any) -> None:
    """Refuse what would take for ever to walk over."""
    count, level = 0, [values]
    for _ in range(_DEEPEST):
        level = [inner for value in level for inner in _inside(value)]
        count += len(level)
        if not level:
            return
        if count > _MOST_VALUES:
            break
    raise ConfigError(
        f"holds more than {_MOST_VALUES:,} values or {_DEEPEST} levels, once each alias (*name) is replaced by what it stands for"
    )


def _inside(value: Any) -> list[Any]:
    return list(value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else ())
