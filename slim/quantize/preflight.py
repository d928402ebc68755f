"""Whether a scheme fits a model, found out from headers before any work is spent; and with which group size."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.version import Version

from slim.checkpoint import Shape, matches
from slim.config import QuantizeConfig
from slim.errors import ConfigError, Reason, StageError
from slim.precisions import Method, Precision

GROUP_SIZES = (128, 64, 32)
"""Group sizes that vLLM's kernels for 4-bit weights take (Marlin 32, 64, 128; Machete 64, 128; CPU any even one), largest first."""
BNB_BLOCK = 64
"""Weights that share a scale in bitsandbytes' 4-bit formats, which it does not let one choose here."""

_PACKAGES: Mapping[Method, tuple[str, ...]] = {
    "none": (),
    "gptq": ("llmcompressor", "compressed-tensors", "torch", "transformers"),
    "bitsandbytes": ("bitsandbytes", "accelerate", "torch", "transformers"),
}
_HEAD = "lm_head"
_OTHER_PARTS = (
    "re:.*vision_tower.*",
    "re:.*vision_model.*",
    "re:.*visual.*",
    "re:.*multi_modal_projector.*",
    "re:.*audio_tower.*",
)
_TRANSPOSED = ("GPT2LMHeadModel",)


@dataclass(frozen=True)
class Scheme:
    """What a precision comes down to on one model.

    Attributes:
        group_size: weights that share a scale; None where a scale serves a whole channel.
        ignore: layers left in 16 bit, names or ``re:`` patterns: what the user named, and what has to be.
        layers: linear layers that are quantized.
    """

    group_size: int | None
    ignore: tuple[str, ...]
    layers: int


def versions_that_matter(precision: Precision) -> tuple[str, ...]:
    """Return the distributions whose versions determine what a quantize stage of this precision makes."""
    return _PACKAGES[precision.method]


def preflight(shape: Shape, precision: Precision, config: QuantizeConfig) -> Scheme | None:
    """Check that the precision can be made from a model of this shape, and settle what the model leaves open.

    Looks at the model alone; whether packages are there is `check_packages`, in the environment that quantizes.

    Returns:
        The settled scheme; None for a precision that serves the original weights.

    Raises:
        ConfigError: the group size is impossible, or every layer is ignored.
        StageError: ``unsupported_model`` or ``unsupported_scheme``.
    """
    if not precision.is_quantized:
        return None
    name = f"{precision.name} of {shape.architecture}"
    if precision.method == "gptq" and shape.architecture in _TRANSPOSED:
        raise StageError(
            Reason.UNSUPPORTED_MODEL, f"{name}: its layers are transposed convolutions, which GPTQ here does not take"
        )
    if not shape.linear_input_sizes:
        raise StageError(Reason.UNSUPPORTED_MODEL, f"{name}: no linear layers found in its decoder")
    ignore = config.ignore
    if shape.is_tied and not matches(_HEAD, ignore):
        # The output layer is the embedding, which has to stay as it is.
        ignore = (*ignore, _HEAD)
    if shape.is_multimodal:
        ignore = (*ignore, *_OTHER_PARTS)
    sizes = {layer: size for layer, size in shape.linear_input_sizes.items() if not matches(layer, ignore)}
    if not sizes:
        raise ConfigError(f"quantize.ignore leaves no layer to quantize, got {list(config.ignore)}")
    if precision.method == "bitsandbytes":
        return Scheme(BNB_BLOCK if precision.weight_bits == 4 else None, ignore, len(sizes))
    return Scheme(_group_size(sizes, config.group_size, name) if precision.grouped else None, ignore, len(sizes))


def check_packages(precision: Precision) -> None:
    """Check that this environment has the packages that make the precision, in versions that go together.

    Raises:
        StageError: ``missing_package``.
    """
    found: dict[str, str] = {}
    for name in versions_that_matter(precision):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            raise StageError(
                Reason.MISSING_PACKAGE, f"{precision.name} needs the package {name}, which is not installed"
            ) from None
    if precision.method == "gptq":
        _check_pair("llmcompressor", "compressed-tensors", found)


def _check_pair(package: str, needed: str, found: Mapping[str, str]) -> None:
    """An older release of ``needed`` than ``package`` was built for does not import; a newer one is seen to work."""
    for line in requires(package) or []:
        requirement = Requirement(line)
        if requirement.name != needed or requirement.marker is not None:
            continue
        for pin in requirement.specifier:
            wanted, have = Version(pin.version.removesuffix(".*")).release[:2], Version(found[needed]).release[:2]
            if pin.operator in ("==", ">=", "~=") and have < wanted:
                raise StageError(
                    Reason.MISSING_PACKAGE,
                    f"{package} {found[package]} needs {needed}{requirement.specifier}, installed is {found[needed]}",
                )


def _group_size(sizes: Mapping[str, int], requested: int, name: str) -> int:
    """The largest group size that engines take, that divides every layer and is not above the requested one."""
    allowed = ", ".join(map(str, sorted(GROUP_SIZES)))
    if requested < min(GROUP_SIZES):
        raise ConfigError(f"quantize.group_size {requested} is below what engines serve; allowed: {allowed}")
    largest = max(sizes, key=lambda layer: sizes[layer])
    if requested > sizes[largest]:
        raise ConfigError(
            f"quantize.group_size {requested} is larger than every layer's input size ({largest}: {sizes[largest]}); allowed: {allowed}"
        )
    for size in GROUP_SIZES:
        if size <= requested and all(n % size == 0 for n in sizes.values()):
            return size
    odd = next(layer for layer, n in sizes.items() if n % min(GROUP_SIZES))
    raise StageError(
        Reason.UNSUPPORTED_SCHEME,
        f"{name}: no group size of {allowed} divides {odd}'s input size {sizes[odd]}; name it in quantize.ignore to leave it in 16 bit",
    )
