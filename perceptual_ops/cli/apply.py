"""The commands `perceptual-ops apply` and `upscale`: run a trained model on pictures."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._failures import is_out_of_memory
from ..files import make_folder
from ..images import read_image, write_image
from ..picture_folder import pictures_in
from ..picture_outputs import check_writable, check_writable_below
from ..recipes.model_file import MAX_BATCH
from ..recipes.models import load_model
from . import numbers
from .progress import add_progress, progress_bar
from .skipping import STRICT_HELP, Skipped, namesake
from .terminal import checked_device, default_device

TILE_HELP = (
    "pixels on the side of the tiles in which larger pictures go through the model, or auto: less memory, and the same "
    "result; models that normalise their picture, as those of apply do, take about ten times as long; None: whole"
)


def register(commands: Any) -> None:
    for name, kind, help_text in (
        ("apply", "style", "paint pictures with a model of train-style"),
        ("upscale", "super-resolution", "enlarge pictures with a model of train-sr"),
    ):
        command = commands.add_parser(name, help=help_text, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        add = command.add_argument
        add("model", metavar="MODEL", help="the file of the model")
        add("input", metavar="IN", help="a picture, or a folder of them")
        add("output", metavar="OUT", help="the picture to write; for a folder, a folder")
        add("--network", metavar="MODULE:NAME", help="what the model is for, if it was trained with your own")
        add("--size", type=numbers.side, help="pixels of the longer side of what the model is given; None: as it is")
        add(
            "--batch",
            type=numbers.whole(1, MAX_BATCH),
            default=1,
            help="pictures of a folder that go through together, if of one size",
        )
        add("--tile", type=numbers.tile, metavar="N", help=TILE_HELP)
        add("--strict", action="store_true", help=STRICT_HELP)
        add("--device", default=default_device(), help="where to compute")
        add_progress(command)
        command.set_defaults(command=_apply, kind=kind)


def _apply(arguments: argparse.Namespace) -> int:
    source, target = Path(arguments.input), Path(arguments.output)
    skipped = Skipped(arguments.strict or not source.is_dir())
    pictures = pictures_in(source) if source.is_dir() else [source]
    places = _places(pictures, source, target, skipped)
    _check_places(places, source, target, [*pictures, Path(arguments.model)])
    device = checked_device(arguments.device)
    model = load_model(arguments.model, device, arguments.network)
    if model.kind != arguments.kind:
        other = "upscale" if arguments.kind == "style" else "apply"
        raise ValueError(
            f"{arguments.model}: expected a model for {arguments.kind}, this is for {model.kind}; {other} runs it"
        )
    if arguments.tile is not None:
        model.tile_side(arguments.tile)  # is refused once, not with each picture
    done = 0
    with progress_bar(len(places), arguments.progress) as reach:

        def show(tiles: float = 0, of: float = 1) -> None:
            reach(done + tiles / of, f"{done}/{len(places)} pictures")

        run = partial(model, tile_size=arguments.tile, progress=show)
        try:
            for images, pairs in _batches(places, arguments.size, arguments.batch, skipped):
                for result, (_, place) in _applied(run, images, pairs, device, skipped):
                    make_folder(place.parent)
                    write_image(place, result)
                    done += 1
                    if source.is_dir():
                        show()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{done} of {len(pictures)} pictures were written") from None
    if not done:
        raise ValueError(f"{source}: expected a picture that can be used, none of the {len(pictures)} can")
    print(target)
    return skipped.exit_code(f"{done} of {len(pictures)} pictures were written")


def _places(pictures: Sequence[Path], source: Path, target: Path, skipped: Skipped) -> list[tuple[Path, Path]]:
    """Each picture and where its result goes: for folders, under the same path, as PNG."""
    if not source.is_dir():
        return [(source, target)]
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target}: expected a folder for the results of a folder, this is a file")
    taken: dict[Path, Path] = {}
    for path in pictures:
        place = target / path.relative_to(source).with_suffix(".png")
        if place in taken:
            skipped.leave_out(namesake(path, taken[place]))
        else:
            taken[place] = path
    return [(path, place) for place, path in taken.items()]


def _check_places(places: Sequence[tuple[Path, Path]], source: Path, target: Path, inputs: Sequence[Path]) -> None:
    if source.is_dir():
        check_writable_below([place for _, place in places], inputs)
    else:
        check_writable(target, inputs)


def _batches(
    places: Sequence[tuple[Path, Path]], size: int | None, batch: int, skipped: Skipped
) -> Iterator[tuple[Tensor, list[tuple[Path, Path]]]]:
    """Images (at most `batch`, 3, H, W) of pictures that follow each other with one size, and the places of each."""
    images: list[Tensor] = []
    pairs: list[tuple[Path, Path]] = []
    for pair in places:
        image = skipped.attempt(pair[0], read_image, pair[0], size)
        if image is None:
            continue
        if images and image.shape != images[0].shape:
            yield torch.cat(images), pairs
            images, pairs = [], []
        images.append(image)
        pairs.append(pair)
        if len(images) == batch:
            yield torch.cat(images), pairs
            images, pairs = [], []
    if images:
        yield torch.cat(images), pairs


def _applied(
    model: Callable[[Tensor], Tensor],
    images: Tensor,
    pairs: Sequence[tuple[Path, Path]],
    device: torch.device,
    skipped: Skipped,
) -> Iterator[tuple[Tensor, tuple[Path, Path]]]:
    """Results (3, H, W) of images (N, 3, H, W), and the places of each; one by one where N are too many at once."""
    results = None
    if len(pairs) > 1:
        try:
            results = model(images.to(device))
        except Exception as error:
            if not (isinstance(error, ValueError) or is_out_of_memory(error)):
                raise
    if results is not None:
        yield from zip(results, pairs, strict=True)
        return
    for image, pair in zip(images.split(1), pairs, strict=True):
        result = skipped.attempt(pair[0], _applied_to_one, model, image, pair[0], device)
        if result is not None:
            yield result, pair


def _applied_to_one(model: Callable[[Tensor], Tensor], image: Tensor, path: Path, device: torch.device) -> Tensor:
    """(1, 3, H, W) -> (3, H, W); the error of a model names the picture too."""
    try:
        return model(image.to(device))[0]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
