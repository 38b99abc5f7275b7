"""The commands `perceptual-ops apply` and `upscale`: run a trained model on pictures."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..images import check_size, check_writable, check_writable_below, read_image, write_image
from ..picture_folder import pictures_in
from ..recipes.models import MAX_BATCH, load_model
from .terminal import checked_device, default_device, progress_bar


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
        add("--size", type=int, help="pixels of the longer side of what the model is given; None: as it is")
        add("--batch", type=int, default=1, help="pictures of a folder that go through together, if of one size")
        add("--device", default=default_device(), help="where to compute")
        command.set_defaults(command=_apply, kind=kind)


def _apply(arguments: argparse.Namespace) -> int:
    if arguments.size is not None:
        check_size(arguments.size)
    if not 1 <= arguments.batch <= MAX_BATCH:
        raise ValueError(f"--batch: expected 1 to {MAX_BATCH}, got {arguments.batch}")
    source, target = Path(arguments.input), Path(arguments.output)
    places = _places(source, target)
    _check_places(places, source, target, arguments.model)
    device = checked_device(arguments.device)
    model = load_model(arguments.model, device)
    if model.kind != arguments.kind:
        other = "upscale" if arguments.kind == "style" else "apply"
        raise ValueError(
            f"{arguments.model}: expected a model for {arguments.kind}, this is for {model.kind}; {other} runs it"
        )
    done, failed = 0, list[str]()  # pictures that were written, reasons why others were not
    with progress_bar(len(places), "picture") if source.is_dir() else contextlib.nullcontext() as bar:
        try:
            for images, pairs in _batches(places, arguments.size, arguments.batch, failed):
                try:
                    results = model(images.to(device))
                except ValueError as error:  # too large
                    failed += [f"{source}: {error}" for source, _ in pairs]
                    continue
                for result, (_, place) in zip(results, pairs, strict=True):
                    place.parent.mkdir(parents=True, exist_ok=True)
                    write_image(place, result)
                done += len(pairs)
                if bar is not None:
                    bar.update(len(pairs))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{done} of {len(places)} pictures were written") from None
    if failed:
        raise ValueError(f"{'; '.join(failed)}; {done} of {len(places)} pictures were written")
    print(target)
    return 0


def _places(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Each picture and where its result goes: for folders, under the same path, as PNG."""
    if not source.is_dir():
        return [(source, target)]
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target}: expected a folder for the results of a folder, this is a file")
    taken: dict[Path, Path] = {}
    for path in pictures_in(source):
        place = target / path.relative_to(source).with_suffix(".png")
        if place in taken:
            raise ValueError(f"{source}: expected one picture of a name, got {taken[place]} and {path}; rename one")
        taken[place] = path
    return [(path, place) for place, path in taken.items()]


def _check_places(places: Sequence[tuple[Path, Path]], source: Path, target: Path, model: str) -> None:
    inputs = [*(path for path, _ in places), Path(model)]
    if source.is_dir():
        check_writable_below([place for _, place in places], inputs)
    else:
        check_writable(target, inputs)


def _batches(
    places: Sequence[tuple[Path, Path]], size: int | None, batch: int, failed: list[str]
) -> Iterator[tuple[Tensor, list[tuple[Path, Path]]]]:
    """Images (at most `batch`, 3, H, W) of pictures that follow each other with one size, and the places of each.

    Why a picture cannot be read is added to `failed`: one must not keep a folder of them from being done.
    """
    images: list[Tensor] = []
    pairs: list[tuple[Path, Path]] = []
    for pair in places:
        try:
            image = read_image(pair[0], size)
        except (OSError, ValueError) as error:
            failed.append(str(error))
            continue
        if images and (len(images) == batch or image.shape != images[0].shape):
            yield torch.cat(images), pairs
            images, pairs = [], []
        images.append(image)
        pairs.append(pair)
    if images:
        yield torch.cat(images), pairs
