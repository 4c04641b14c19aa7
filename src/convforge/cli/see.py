"""`convforge see`: open a network and look into it."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UserError
from ..shown import shown
from .numbers import a_channel, within
from .serving import serve
from .text import help_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..learned.film import Film
    from ..models.resolve import ResolvedModel
    from ..see.network import Network
    from ..see.pictures import InMemory, Pictures

_PORT = 8642
_MOST_HELD_OUT = 1000


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("see", help=help_of(see))(see)


def see(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="A run's folder, package.module:callable, timm:NAME, torchvision:NAME, or a line of layers; without "
            "it the newest run in runs/.",
            show_default=False,
        ),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGE",
            help="Image files and folders; without any, those that the run held out, or photographs.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[
        int, typer.Option(callback=within(0, 65535), help="Of the page's address; 0 takes any that is free.")
    ] = _PORT,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    labels: Annotated[
        bool | None,
        typer.Option(
            "--labels/--no-labels",
            help="Take sub-folders for classes.",
            show_default="if all images of a folder lie in sub-folders",
        ),
    ] = None,
    input: Annotated[
        str | None,
        typer.Option("--input", metavar="CxHxW", help="Size of the images, where the model does not say it."),
    ] = None,
    mean: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="What is taken from each channel of pixels from 0 to 1.")
    ] = None,
    std: Annotated[str | None, typer.Option(metavar="A,B,C", help="What each channel is then divided by.")] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            "--export",
            metavar="OUT.html",
            help="Write the page with the first images into one file, and start nothing.",
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            "--images",
            metavar="N",
            callback=within(1, 64),
            help="How many images the file of --export holds.",
            show_default="4",
        ),
    ] = None,
) -> None:
    """Open a network on a page of your browser and look into it: every number can be traced to the products behind it.

    Read what it answers, and why: which places of the image and which channels made the number, to the last product.
    Slide a kernel over an image and read the products and sums of any output number; see each layer's shapes, costs and
    receptive field, its feature maps, its kernels, and what of your images its channels answer to.

    It is your own model and your own images. The page is served to you on this machine only, asks for nothing on the
    network, and reads no files but the images that you name.

    [bold]Examples[/]

    The newest run in runs/, with the images that it held out: [cyan]convforge see[/]

    Your run and your images: [cyan]convforge see runs/pets holiday/[/]

    A pretrained network: [cyan]convforge see torchvision:mobilenet_v2 cat.jpg dog.jpg[/]

    A model of your own code, and how its images are normalised:
    [cyan]convforge see nets.small:build photos/ --input 3x96x96 --mean .5,.5,.5 --std .25,.25,.25[/]

    A line of layers, with random weights: [cyan]convforge see "conv 8 3x3 same, relu, pool 2" --input 3x64x64[/]

    One file that opens without a server: [cyan]convforge see runs/pets cat.jpg --export cat.html[/]
    """
    from ..learned.film import read as read_film
    from ..models.resolve import resolve
    from ..models.sizes import parse_shape

    for package in ("fastapi", "uvicorn"):
        if find_spec(package) is None:
            raise UserError(f"the page needs {package}, which is not installed: pip install 'convforge[see]'.")
    if export is not None:
        _must_be_a_place(export)
    elif count is not None:
        raise UserError("--images says how many images the file of --export holds: name that, too.")
    named = list(images or ())
    if model is not None and _is_image(model):
        named.insert(0, Path(model))
        model = None
    shape = parse_shape(input) if input is not None else None
    model = model if model is not None else str(_newest_run())
    resolved = resolve(model, shape, ready=True, partly=True)
    if shape is None and _learned_from_patches(Path(model)):
        resolved = _for_whole_photographs(resolved)
    from ..see.opened import Seen, opened

    seen = Seen(named, labels, *(() if named else _held_out(Path(model))))
    network, pictures = opened(resolved, seen, a_channel(mean, "--mean"), a_channel(std, "--std"))
    for note in (*network.notes, *pictures.notes):
        typer.echo(shown(f"note: {note}"), err=True)
    film = partial(read_film, model)
    film()  # a damaged one is said now
    if export is not None:
        _write(network, pictures, film, export, count)
    else:
        _serve(network, pictures, film, port, browser)


def _held_out(run: Path) -> tuple[tuple[InMemory, ...], tuple[str, ...]]:
    """What a run of `convforge train` was tested with, and a note where that is not to be had."""
    from ..see.pictures import InMemory
    from ..train.folder import CONFIG
    from ..train.held_out import held_out

    if not _is_folder(run) or not (run / CONFIG).is_file() or _learned_from_patches(run):
        return (), ()
    try:
        found = held_out(run, _MOST_HELD_OUT, say=lambda words: typer.echo(shown(words), err=True))
    except UserError as reason:
        return (), (f"these are photographs, not the images that the run held out: {reason}",)
    return tuple(InMemory(f"held-out {one.number}", one.pixels, one.label) for one in found), ()


def _must_be_a_place(path: Path) -> None:
    """Raise `UserError` if no page could be written there, before anything is computed for it."""
    if path.is_dir():
        raise UserError(
            f"{shown(path)} is a folder; --export writes a file, for example {shown(path / 'network.html')}."
        )
    if not path.parent.is_dir():
        raise UserError(f"there is no folder {shown(path.parent)} for the page: make it first, or name another place.")


def _write(
    network: Network, pictures: Pictures, film: Callable[[], Film | None], path: Path, count: int | None
) -> None:
    from ..files import write_atomically
    from ..see.export import IMAGES, export
    from ..see.shelf import Shelf

    held = min(len(pictures), count or IMAGES)
    content = export(
        network, pictures, Shelf.of_the_user(), film, held, say=lambda words: typer.echo(shown(words), err=True)
    ).encode()
    write_atomically(path, content)
    size = f"{held} of {len(pictures):,} images, {len(content) / 2**20:.1f} MiB"
    more = "" if held == len(pictures) else "; --images puts more of them in"
    typer.echo(shown(f"{path}: {network.name} and {size}{more}"))


def _serve(network: Network, pictures: Pictures, film: Callable[[], Film | None], port: int, browser: bool) -> None:
    """Until Ctrl-C."""
    from ..see.server import create_app
    from ..see.shelf import Shelf

    serve(
        lambda port, key: create_app(network, pictures, port, key, Shelf.of_the_user(), film),
        f"{network.name} and {len(pictures):,} images are at",
        port,
        browser,
    )


def _is_image(text: str) -> bool:
    """Whether what stands in MODEL's place is an image or a folder of images: it is there, and is no checkpoint."""
    try:
        path = Path(text)
        if path.is_dir():
            return not any((path / name).exists() for name in ("model.safetensors", "architecture.json"))
        return path.is_file() and path.suffix.lower() not in (
            ".safetensors",
            ".json",
            ".pt",
            ".pth",
            ".ckpt",
            ".bin",
            ".pkl",
        )
    except OSError:  # a long line of layers
        return False


def _newest_run(folder: Path = Path("runs")) -> Path:
    from ..models.checkpoint import ARCHITECTURE, WEIGHTS

    runs = [path.parent for path in folder.glob(f"*/{ARCHITECTURE}") if (path.parent / WEIGHTS).is_file()]
    if not runs:
        raise UserError(
            "there is no trained network in runs/: make one with 'convforge train' or with "
            "'convforge train --task exemplar', which take a minute or two, or name a MODEL."
        )
    return max(runs, key=lambda run: (run / WEIGHTS).stat().st_mtime)


def _learned_from_patches(run: Path) -> bool:
    """Whether it is a run of `convforge train --task exemplar`."""
    from ..models.checkpoint import read_json

    config = run / "config.json"
    if not _is_folder(run) or not config.is_file():
        return False
    options = read_json(config).get("options")
    return isinstance(options, dict) and options.get("task") == "exemplar"


def _for_whole_photographs(resolved: ResolvedModel) -> ResolvedModel:
    """Such a network looks at small parts of photographs, and takes images of any size: here it gets whole ones."""
    from dataclasses import replace

    from ..models.sizes import IMAGENET

    channels, *patch = resolved.input_shape
    shape = (channels, IMAGENET[1], IMAGENET[2])
    note = (
        f"it learned from patches of {patch[0]}×{patch[1]} pixels; here it sees whole photographs, made "
        f"{shape[1]}×{shape[2]}, which --input changes."
    )
    return replace(resolved, input_shape=shape, notes=(*resolved.notes, note))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a long line of layers
        return False
