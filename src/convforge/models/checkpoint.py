"""Checkpoints without pickle: `model.safetensors` for the numbers, `architecture.json` for what they mean.

Nothing that stands in a checkpoint is executed, and nothing that it claims is believed: the model is first laid out on
torch's meta device, where tensors have shapes but no memory, and only when the file holds exactly the tensors that the
architecture calls for are they loaded. So a checkpoint costs no more memory than its file is long, whatever it says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from reprlib import repr as short
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

from ..errors import UserError
from ..files import brief, each_once, header_is_short, opened, write_atomically
from . import families

WEIGHTS, ARCHITECTURE = "model.safetensors", "architecture.json"

# Python's objects take up to twenty times as much memory as their JSON. The longest that is written, a million classes
# apart, has a few thousand names.
_JSON_BYTES_AT_MOST = 16 * 2**20

# The names that safetensors has for torch's dtypes, as far as models use them.
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Architecture:
    """What a checkpoint's numbers mean: everything that is needed to build the model and to feed it.

    Args:
        family: as `families.build` takes it: 'vgg', 'resnet', 'timm:NAME' …
        arguments: what `families.build` needs beside classes and input shape; JSON-able.
        classes: names in the order of the logits.
        input_shape: (C, H, W).
        mean, std: one number a channel; the model is fed (pixel / 255 − mean) / std.

    >>> digits = Architecture("vgg", {}, tuple("0123456789"), (1, 28, 28), mean=(0.13,), std=(0.31,))
    >>> digits.build()(torch.zeros(1, *digits.input_shape)).shape
    torch.Size([1, 10])
    """

    family: str
    arguments: dict[str, Any]
    classes: tuple[str, ...]
    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def build(self) -> nn.Module:
        """A freshly initialised model of this architecture."""
        return families.build(self.family, classes=len(self.classes), input_shape=self.input_shape, **self.arguments)


def save(folder: str | os.PathLike[str], model: nn.Module, architecture: Architecture) -> None:
    """Write `model.safetensors` and `architecture.json` into `folder`, which is made if it is not there.

    Each file is replaced in one step: a crash or a full disk leaves the old one intact.

    Raises:
        UserError: if the folder cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     dots = Architecture("vgg", {"widths": [4], "convs": 1}, ("a", "b"), (1, 8, 8), mean=(0.5,), std=(0.5,))
    ...     save(folder, dots.build(), dots)
    ...     model, found = load(folder)
    >>> found == dots, model.training
    (True, False)
    """
    save_architecture(Path(folder), architecture)
    save_weights(Path(folder), model.state_dict())


def save_architecture(folder: Path, architecture: Architecture) -> None:
    """`architecture.json` alone."""
    write_atomically(folder / ARCHITECTURE, to_json(asdict(architecture)))


def save_weights(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """`model.safetensors` alone, of a state dict."""
    write_atomically(folder / WEIGHTS, to_safetensors(portable(tensors), {"format": "pt"}))


def load(folder: str | os.PathLike[str]) -> tuple[nn.Module, Architecture]:
    """The model of a checkpoint, in eval mode, and its architecture. The folder is a run of `convforge train`.

    Raises:
        UserError: naming the file that is missing, damaged, or does not belong to the other.
    """
    described, weights = Path(folder) / ARCHITECTURE, Path(folder) / WEIGHTS
    architecture = read_architecture(described)
    try:
        with torch.device("meta"):
            outline = architecture.build().state_dict()
    except (UserError, TypeError, ValueError, RuntimeError) as reason:
        raise UserError(f"{described} describes a model that cannot be built: {brief(reason)}") from reason
    tensors = read_tensors(weights, outline, described)
    # Initialising draws random numbers that are overwritten at once; the caller's sequence must not notice.
    with torch.random.fork_rng(devices=[]):
        model = architecture.build()
    model.load_state_dict(tensors, strict=True)
    return model.eval(), architecture


def portable(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies as safetensors wants them: on the CPU, contiguous, no two sharing memory."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }


def read_tensors(path: Path, outline: Mapping[str, Tensor], described_by: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file that must hold exactly those of `outline`: names, shapes and dtypes.

    The outline may be on the meta device. Raises `UserError` that names the file where it is damaged or holds other
    tensors; `described_by` is the file that the outline comes from.
    """
    if not header_is_short(read_bytes(path, at_most=8, whole=False)):
        raise UserError(f"{path} is not a safetensors file; it is damaged, or something else with that name.")
    try:
        with opened(path) as file:
            names = set(file.keys())
            if differing := sorted(names ^ outline.keys()):
                where = "lacks" if differing[0] in outline else "holds an unknown"
                raise UserError(f"{path} {where} tensor {differing[0][:80]!r}; it does not belong to {described_by}.")
            for name, expected in outline.items():
                entry = file.get_slice(name)
                shape, dtype = tuple(entry.get_shape()), entry.get_dtype()
                if shape != tuple(expected.shape) or dtype != _DTYPES.get(expected.dtype):
                    raise UserError(
                        f"{path} holds {name!r} as {dtype} of shape {short(shape)}, but {described_by} calls for "
                        f"{_DTYPES.get(expected.dtype)} of shape {tuple(expected.shape)}; they do not belong together."
                    )
            return {name: file.get_tensor(name) for name in outline}
    except (SafetensorError, OSError) as reason:
        raise UserError(f"{path} cannot be read ({brief(reason)}); it is damaged or was cut short.") from reason


def read_bytes(path: Path, at_most: int, whole: bool = True) -> bytes:
    """The content of a regular file, or its first `at_most` bytes where not the `whole` is wanted.

    Raises `UserError` if the file is missing, not a file, or longer than `at_most` bytes.
    """
    try:
        if not path.is_file():  # a pipe or a device would never end
            missing = f"{path} is not there" if path.parent.is_dir() else f"there is no folder {path.parent}"
            raise UserError(f"{missing}; give the folder that convforge train wrote, such as runs/NAME.")
        with path.open("rb") as file:
            content = file.read(at_most + 1 if whole else at_most)
    except OSError as reason:
        raise UserError(f"cannot read {path}: {reason.strerror or reason}.") from reason
    if len(content) > at_most:
        raise UserError(f"{path} is longer than {at_most:,} bytes, so it was not written by convforge.")
    return content


def to_json(value: dict[str, Any]) -> bytes:
    """What `read_json` reads, for people, too. A path that is no UTF-8 is escaped, and read as the same path again."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # Such bytes are lone surrogates in Python's strings, whose escapes in Python are those of JSON.
    return text.encode(errors="backslashreplace")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; `UserError` that names the file if it is not one."""
    content = read_bytes(path, _JSON_BYTES_AT_MOST)
    try:
        value = json.loads(content, object_pairs_hook=each_once)
    except (ValueError, RecursionError) as reason:
        raise UserError(f"{path} is not readable as JSON ({reason}); it is damaged or was cut short.") from reason
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object, not {type(value).__name__}.")
    return value


def read_architecture(path: Path) -> Architecture:
    """What `save_architecture` wrote; `UserError` that names the file if it is none."""
    found = read_json(path)
    names = [field.name for field in fields(Architecture)]
    if differing := sorted(found.keys() ^ set(names)):
        state = "lacks" if differing[0] in names else "has an unknown"
        raise UserError(f"{path} {state} entry {differing[0][:80]!r}; it was not written by this version of convforge.")
    shape, classes = found["input_shape"], found["classes"]
    channels = shape[0] if isinstance(shape, list) and shape else None
    checks = {
        "family": isinstance(found["family"], str),
        "arguments": isinstance(found["arguments"], dict),
        "classes": isinstance(classes, list) and len(classes) > 0 and all(isinstance(name, str) for name in classes),
        "input_shape": isinstance(shape, list) and len(shape) == 3 and all(type(size) is int for size in shape),
        "mean": _per_channel(found["mean"], channels),
        "std": _per_channel(found["std"], channels) and all(value > 0 for value in found["std"]),
    }
    for name, fine in checks.items():
        if not fine:
            raise UserError(f"{path} has no usable {name}: {short(found[name])}; it is damaged.")
    return Architecture(
        family=found["family"],
        arguments=found["arguments"],
        classes=tuple(classes),
        input_shape=(shape[0], shape[1], shape[2]),
        mean=tuple(map(float, found["mean"])),
        std=tuple(map(float, found["std"])),
    )


def _per_channel(values: Any, channels: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) == channels
        and all(type(value) in (int, float) and abs(value) < 1e6 for value in values)
    )
