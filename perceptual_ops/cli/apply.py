"""The commands `perceptual-ops apply` and `upscale`: run a trained model on pictures."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..images import check_size, check_writable, read_image, write_image
from ..picture_folder import pictures_in
from ..recipes.models import Model, load_model
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
    if arguments.batch < 1:
        raise ValueError(f"--batch: expected a whole number above 0, got {arguments.batch}")
    source, target = Path(arguments.input), Path(arguments.output)
    places = _places(source, target)
    model = load_model(arguments.model, checked_device(arguments.device))
    if model.kind != arguments.kind:
        other = "upscale" if arguments.kind == "style" else "apply"
        raise ValueError(
            f"{arguments.model}: expected a model for {arguments.kind}, this is for {model.kind}; {other} runs it"
        )
    if not source.is_dir():
        _write(model, [read_image(source, arguments.size)], [target], arguments.device)
        print(target)
        return 0
    done = 0
    with progress_bar(len(places), "picture") as bar:
        try:
            for images, results in _batches(places, arguments.size, arguments.batch):
                _write(model, images, results, arguments.device)
                done += len(results)
                bar.update(len(results))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{done} of {len(places)} pictures were written") from None
    print(target)
    return 0


def _places(source: Path, target: Path) -> list[tuple[Path, Path]]:
    """Each picture and where its result goes: for folders, under the same path, as PNG."""
    if not source.is_dir():
        check_writable(target)
        return [(source, target)]
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target}: expected a folder for the results of a folder, this is a file")
    if target.resolve().is_relative_to(source.resolve()):
        raise ValueError(f"{target}: expected a place other than {source}, whose pictures stay as they are")
    places = [(path, target / path.relative_to(source).with_suffix(".png")) for path in pictures_in(source)]
    names = [place for _, place in places]
    for path, place in places:
        if names.count(place) > 1:
            raise ValueError(f"{source}: expected one picture of a name, got two of {path.with_suffix('').name}")
    return places


def _batches(
    places: Sequence[tuple[Path, Path]], size: int | None, batch: int
) -> Iterator[tuple[list[Tensor], list[Path]]]:
    """Images (1, 3, H, W) that follow each other with one size, at most `batch`, with where their results go."""
    images: list[Tensor] = []
    results: list[Path] = []
    for path, place in places:
        image = read_image(path, size)
        if images and (len(images) == batch or image.shape != images[0].shape):
            yield images, results
            images, results = [], []
        images.append(image)
        results.append(place)
    yield images, results


def _write(model: Model, images: Sequence[Tensor], results: Sequence[Path], device: str) -> None:
    for image, place in zip(model(torch.cat([*images]).to(device)), results, strict=True):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_image(place, image)
