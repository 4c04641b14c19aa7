"""A trained network as a file that others can run: a bundle, ONNX, a torch program, or bare weights.

Every export is written beside its destination, loaded again, run on random input, compared with the network it came
from, and only then given its name: a file that is there is one that worked.

All hold the network alone. It takes normalised images, (pixel / 255 − mean) / std as float32 `(N, C, H, W)`, and
answers with logits `(N, classes)`; only ONNX files can have the preprocessing inside, on demand (`preprocessing.py`):
then they take uint8 pixels `(N, H, W, C)` of any size. Class names, input shape, mean and std travel along as JSON
under the key `convforge` (ONNX metadata, safetensors metadata, and an extra file in the torch program); a bundle has
places for them.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from io import BytesIO, StringIO
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UserError
from ..files import opened
from ..inference.about import About
from ..inference.compile import compile
from . import preprocessing
from .checkpoint import Architecture, load, portable
from .load import load as load_model

KEY = "convforge"

# How far the outputs may lie apart, as a share of the largest one: float32 sums in another order, and no more.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Exported:
    """What was written: `difference` is the largest between the outputs of the network and of the file, on random
    input; `largest` is the largest output, to measure it by. `architecture` says what images it is for."""

    path: Path
    size: int
    difference: float
    largest: float
    architecture: Architecture


def export(
    run: str | Path, to: str, output: str | Path | None = None, force: bool = False, with_preprocessing: bool = False
) -> Exported:
    """Export the checkpoint in `run`.

    Args:
        run: the folder that training wrote.
        to: 'bundle' (what `convforge.load` runs without torch), 'onnx', 'torch' (a `torch.export` program, .pt2, that
            plain torch loads) or 'safetensors'.
        output: the file; by default inside `run`, with its name: runs/mnist/mnist.onnx.
        force: replace the file if it is there.
        with_preprocessing: to ONNX, size and normalisation of pictures as nodes before the network's own.

    Raises:
        UserError: for another format, a file that is already there, packages that are missing, a folder that cannot be
            written, a network that the format cannot express, or an export that answers differently.
    """
    if to not in _FORMATS:
        raise UserError(f"{to!r} is not a format to export to: choose one of {', '.join(_FORMATS)}.")
    if with_preprocessing and to != "onnx":
        raise UserError(f"--with-preprocessing is for --to onnx, not {to}: the other formats have no operators for it.")
    suffix, write, run_again = _FORMATS[to]
    if with_preprocessing:
        write, run_again = _write_onnx_with_preprocessing, _run_onnx_with_preprocessing
    path = Path(output) if output is not None else Path(run) / f"{Path(run).resolve().name}{suffix}"
    if path.is_dir():
        raise UserError(
            f"{path} is a folder: give --output the name of a file in it, such as {path / ('model' + suffix)}."
        )
    if path.exists() and not force:
        raise UserError(f"{path} is already there: choose another name with --output, or replace it with --force.")
    if to == "onnx":
        _require_onnx()
    model, architecture = load(run)
    model = with_plain_convolutions(model)
    try:
        with _quiet():
            content = write(model, architecture)
    # The exporters raise many types, and which depends on the network; the sentence is all that the user can use.
    except Exception as failure:
        reason = next(iter(str(failure).strip().splitlines()), type(failure).__name__)
        raise UserError(f"this network cannot be exported to {to} ({reason}): try another format.") from failure

    with _written(path, content) as temporary:
        pairs = []
        # Two batch sizes, neither of them the one that was traced: the batch must not be baked in.
        for batch in (1, 3):
            given, inputs = (_pixels if with_preprocessing else _numbers)(architecture, batch)
            with torch.inference_mode():
                expected = model(inputs)
            with _quiet():
                pairs.append((expected, run_again(temporary, given)))
        # torch's maximum, unlike Python's, lets a value that is not a number through.
        largest = float(torch.cat([expected for expected, _ in pairs]).abs().max())
        difference = float(torch.cat([found - expected for expected, found in pairs]).abs().max())
        if not isfinite(largest):
            raise UserError(
                "the network answers with values that are not numbers: its weights are damaged, train it again."
            )
        if not difference <= _TOLERANCE * max(largest, 1.0):  # also where it is not a number
            raise UserError(
                f"the {to} file answers differently from the network, by {difference:.3g} where the largest output is "
                f"{largest:.3g}, so {path} was not written: try another format."
            )
    return Exported(path, len(content), difference, largest, architecture)


def _numbers(architecture: Architecture, batch: int) -> tuple[Tensor, Tensor]:
    """What a file is given to compare it, and what the network is: the same."""
    inputs = torch.randn(batch, *architecture.input_shape, generator=torch.Generator().manual_seed(batch))
    return inputs, inputs


def _pixels(architecture: Architecture, batch: int) -> tuple[Tensor, Tensor]:
    """The same with preprocessing in the file: pictures, and what convforge makes of them.

    They are as large as the network's, or twice, and three times as wide: sizes at which weighted means are exact, so
    that no sum falls to the other side of a half.
    """
    from PIL import Image

    from ..images.read import to_array

    channels, height, width = architecture.input_shape
    size = (height, width) if batch == 1 else (2 * height, 3 * width)
    draw = np.random.default_rng(batch)
    pictures = draw.integers(0, 256, (batch, *size, channels), np.uint8)
    flat = pictures[..., 0] if channels == 1 else pictures
    fitted = np.stack([to_array(Image.fromarray(picture), channels, (height, width)) for picture in flat])
    about = About(architecture.classes, architecture.mean, architecture.std)
    return torch.from_numpy(pictures), torch.from_numpy(about.normalised(fitted))


# ---------------------------------------------------------------------------------------------------------------------
# The formats: model to bytes, and file and input to output
# ---------------------------------------------------------------------------------------------------------------------


def _write_bundle(model: nn.Module, architecture: Architecture) -> bytes:
    about: dict[str, Any] = {"classes": architecture.classes, "mean": architecture.mean, "std": architecture.std}
    return compile(model, torch.zeros(1, *architecture.input_shape), **about).to_bytes()


def _run_bundle(path: Path, inputs: Tensor) -> Tensor:
    outputs: Tensor = load_model(path)(inputs)
    return outputs


def _write_onnx(model: nn.Module, architecture: Architecture) -> bytes:
    program = torch.onnx.export(
        model,
        (_example(architecture),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["images"],
        output_names=["logits"],
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props[KEY] = _described(architecture)
    content: bytes = program.model_proto.SerializeToString()
    return content


def _write_onnx_with_preprocessing(model: nn.Module, architecture: Architecture) -> bytes:
    import onnx

    network = onnx.load_model_from_string(_write_onnx(model, architecture))
    content: bytes = preprocessing.with_preprocessing(network, architecture, "images").SerializeToString()
    return content


def _run_onnx(path: Path, inputs: Tensor, name: str = "images") -> Tensor:
    import onnxruntime

    # Not its path, which need not be UTF-8.
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {name: inputs.numpy()})[0])


def _run_onnx_with_preprocessing(path: Path, pixels: Tensor) -> Tensor:
    return _run_onnx(path, pixels, preprocessing.INPUT)


def _require_onnx() -> None:
    try:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            import_module(package)
    except ImportError as failure:
        raise UserError(
            f"exporting to ONNX needs the package {failure.name}: pip install 'convforge[onnx]'."
        ) from failure


def _write_torch(model: nn.Module, architecture: Architecture) -> bytes:
    program = torch.export.export(model, (_example(architecture),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    buffer = BytesIO()
    torch.export.save(program, buffer, extra_files={f"{KEY}.json": _described(architecture)})
    return buffer.getvalue()


def _run_torch(path: Path, inputs: Tensor) -> Tensor:
    with path.open("rb") as file, torch.inference_mode():
        outputs: Tensor = torch.export.load(file).module()(inputs)
    return outputs


def _write_safetensors(model: nn.Module, architecture: Architecture) -> bytes:
    from safetensors.torch import save

    metadata = {"format": "pt", KEY: _described(architecture)}
    content: bytes = save(portable(model.state_dict()), metadata)
    return content


def _run_safetensors(path: Path, inputs: Tensor) -> Tensor:
    with opened(path) as file:
        described = json.loads(file.metadata()[KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    with torch.random.fork_rng(devices=[]):
        model = Architecture(**described).build()
    model.load_state_dict(tensors, strict=True)
    with torch.inference_mode():
        outputs: Tensor = model.eval()(inputs)
    return outputs


_FORMATS: dict[str, tuple[str, Callable[[nn.Module, Architecture], bytes], Callable[[Path, Tensor], Tensor]]] = {
    "bundle": (".bundle", _write_bundle, _run_bundle),
    "onnx": (".onnx", _write_onnx, _run_onnx),
    "torch": (".pt2", _write_torch, _run_torch),
    "safetensors": (".safetensors", _write_safetensors, _run_safetensors),
}


def _example(architecture: Architecture) -> Tensor:
    # Tracing takes a size of 1 for a constant, so the example has two images.
    return torch.zeros(2, *architecture.input_shape)


def _described(architecture: Architecture) -> str:
    return json.dumps(asdict(architecture))


def with_plain_convolutions(model: nn.Module) -> nn.Module:
    """A copy whose convolutions are torch's own: a file must not need convforge to be run."""
    plain = copy.deepcopy(model)
    for name, layer in list(plain.named_modules()):
        if isinstance(layer, nn.Conv2d) and type(layer).__module__.partition(".")[0] == __package__.partition(".")[0]:
            plain.set_submodule(name, _plain(layer))
    return plain


def _plain(layer: nn.Conv2d) -> nn.Conv2d:
    settings: dict[str, Any] = {
        name: getattr(layer, name)
        for name in ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    }
    result = nn.Conv2d(layer.in_channels, layer.out_channels, bias=layer.bias is not None, **settings)
    result.load_state_dict(layer.state_dict())
    return result.train(layer.training)


# ---------------------------------------------------------------------------------------------------------------------
# Writing
# ---------------------------------------------------------------------------------------------------------------------


@contextmanager
def _written(path: Path, content: bytes) -> Iterator[Path]:
    """The content in a temporary file beside `path`, which takes that name when the block ends well."""
    temporary: Path | None = None
    try:
        try:
            handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=path.suffix)
            temporary = Path(name)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                os.fsync(file.fileno())
        except OSError as failure:
            raise _unwritable(path, failure) from failure
        yield temporary
        try:
            temporary.chmod(0o644)
            temporary.replace(path)
        except OSError as failure:
            raise _unwritable(path, failure) from failure
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _unwritable(path: Path, failure: OSError) -> UserError:
    reason = failure.strerror or failure
    return UserError(f"{path} cannot be written ({reason}): choose another place with --output.")


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters report progress and packages that they could have used; none of it is for the user."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
