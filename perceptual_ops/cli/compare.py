"""The command `perceptual-ops compare`: how far pictures are from others."""

from __future__ import annotations

import argparse
import csv
import io
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..files import append_whole, check_apart, check_writable_file, is_taken, make_folder, write_whole
from ..heat_map import heat_map
from ..images import check_matplotlib, read_image, save_picture
from ..picture_outputs import check_writable, check_writable_below
from ..recipes.comparison import METRICS, WITH_LAYERS, WITH_PIXELS, Comparison, comparison, default_layers
from . import numbers
from .picture_pairs import PicturePair, picture_pairs
from .progress import add_progress, progress_bar
from .skipping import STRICT_HELP, Skipped
from .terminal import TILE_HELP, checked_device, default_device, names, say

if TYPE_CHECKING:
    from PIL import Image

COLUMNS = ("name", "metric", "distance")
LABELS = (*METRICS, "stlpips")  # what a metric's label begins with


def register(commands: Any) -> None:
    command = commands.add_parser("compare", help="say how far pictures are from others, as people see it")
    add = command.add_argument
    add("output", metavar="A", help="the picture to judge, or a folder of them")
    add("target", metavar="B", help="the picture it should be; a folder: those of the same names; or one for all of A")
    add("--metric", choices=METRICS, default="lpips", help="what is measured (default: lpips)")
    networks = "; ".join(f"{metric}: {', '.join(known)}" for metric, known in METRICS.items())
    add("--network", metavar="NAME", help=f"the network, the first by default: {networks}")
    add("--weights", help="of the network: imagenet (default), stlpips, random, or the path of a file")
    layers = "; ".join(f"{metric}: {','.join(default_layers(metric, 'vgg16'))}" for metric in WITH_LAYERS)
    add("--layers", type=names, help=f"layers, separated by commas, of content and style (of vgg16 {layers})")
    add("--size", type=numbers.side, help="pixels of the longer side of both (default: as they are)")
    add("--resize", action="store_true", help="bring B to the size of A")
    add(
        "--map",
        metavar="OUT",
        help="write the distance of each pixel as colours over A, or to an OUT.npy as numbers (H, W) in fp32; for "
        "folders, a folder",
    )
    add("--max", type=numbers.positive, help="where the map's scale ends (default: its largest distance)")
    add("--tile", type=numbers.tile, metavar="N", help=TILE_HELP)
    add("--csv", metavar="OUT.csv", help="write a row for each pair")
    add("--skip-unpaired", action="store_true", help="leave out pictures of a folder that the other lacks")
    add("--strict", action="store_true", help=STRICT_HELP)
    add("--device", default=default_device(), help=f"where to compute (default: {default_device()})")
    add_progress(command)
    command.set_defaults(command=_compare)


def _compare(arguments: argparse.Namespace) -> int:
    """Prints one distance, or the mean and the standard deviation of those of a folder."""
    _check_options(arguments)
    output, target = Path(arguments.output), Path(arguments.target)
    of_folder = output.is_dir()
    skipped = Skipped(arguments.strict or not of_folder)
    pairs, left_out = picture_pairs(output, target, skipped, arguments.skip_unpaired)
    count = len(pairs) + skipped.count
    _check_places(arguments, pairs, of_folder)
    device = checked_device(arguments.device)
    measure = comparison(
        arguments.metric,
        network=arguments.network,
        weights=arguments.weights,
        layers=arguments.layers,
        device=device,
        tile_size=arguments.tile,
    )
    if left_out:
        say(left_out)
    if of_folder and not target.is_dir():
        read_image(target, arguments.size)  # the one picture for all has to be good
    distances: list[float] = []
    with progress_bar(len(pairs), arguments.progress) as reach:
        try:
            for pair in pairs:
                found = skipped.attempt(pair.name, _compared, pair, measure, arguments, device)
                if found is None:
                    continue
                distance, made = found
                place = _map_place(arguments.map, pair.name if of_folder else "")
                if place and made is not None:
                    _write_map(place, made)
                if arguments.csv:
                    _write_row(arguments.csv, (pair.name, measure.label, f"{distance:.9g}"), first=not distances)
                distances.append(distance)
                if of_folder:
                    reach(len(distances), f"{len(distances)}/{len(pairs)} pairs")
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{len(distances)} of {count} pairs were compared") from None
    if not distances:
        raise ValueError(f"{output}, {target}: expected a pair that can be compared, none of the {count} can")
    if of_folder:
        mean, deviation = statistics.fmean(distances), statistics.pstdev(distances)
        print(f"{measure.label}, {len(distances)} pairs: mean {mean:.6g} std {deviation:.6g}")
    else:
        print(f"{measure.label}: {distances[0]:.6g}")
    return skipped.exit_code(f"{len(distances)} of {count} pairs were compared")


@torch.no_grad()
def _compared(
    pair: PicturePair, measure: Comparison, arguments: argparse.Namespace, device: torch.device
) -> tuple[float, Image.Image | Tensor | None]:
    """The distance of a pair, and its map where one is wanted, as a picture or as numbers (H, W)."""
    output = read_image(pair.output, arguments.size)
    size = (output.shape[2], output.shape[3])
    # At once from the file: resized twice, it would lose twice.
    target = read_image(pair.target, size if arguments.resize else arguments.size)
    if output.shape != target.shape and not measure.any_size:
        sizes = " and ".join(f"{image.shape[3]} x {image.shape[2]}" for image in (output, target))
        raise ValueError(
            f"{pair.output}, {pair.target}: expected pictures of one size, got {sizes} pixels; "
            f"--resize brings the second to the size of the first"
        )
    images = output.to(device), target.to(device)
    try:
        distance = measure.distance(*images).item()
        pixels = measure.pixels(*images) if arguments.map and measure.pixels else None
    except ValueError as error:  # too small for the network
        raise ValueError(f"{pair.output}, {pair.target}: {error}") from None
    if not math.isfinite(distance):
        raise ValueError(f"{pair.output}, {pair.target}: expected a distance that is a number, got {distance}")
    if pixels is None or _is_array(arguments):
        return distance, None if pixels is None else pixels[0, 0]
    return distance, heat_map(output, pixels, arguments.max, f"{measure.label}: {distance:.4g}")


def _check_options(arguments: argparse.Namespace) -> None:
    if arguments.max is not None and not arguments.map:
        raise ValueError("--max: expected --map too, whose scale it ends")
    if arguments.max is not None and _is_array(arguments):
        raise ValueError(f"--max: expected a map in colours, whose scale it ends; {arguments.map} is of numbers")
    if arguments.map and arguments.metric not in WITH_PIXELS:
        raise ValueError(
            f"--map: expected --metric {' or '.join(WITH_PIXELS)}, {arguments.metric} is no sum over pixels"
        )
    if arguments.map and not _is_array(arguments):
        check_matplotlib("--map")


def _check_places(arguments: argparse.Namespace, pairs: Sequence[PicturePair], of_folder: bool) -> None:
    """Raises what writing would raise, before minutes are spent, and keeps what is read from being written over."""
    inputs = [path for pair in pairs for path in (pair.output, pair.target)]
    maps = [place for pair in pairs if (place := _map_place(arguments.map, pair.name if of_folder else ""))]
    if arguments.map:
        _check_map(Path(arguments.map), Path(arguments.output), Path(arguments.target))
        if of_folder:
            check_writable_below(maps, inputs)
        elif _is_array(arguments):
            _check_array(Path(arguments.map), inputs)
        else:
            check_writable(arguments.map, inputs)
    if arguments.csv:
        path = Path(arguments.csv)
        if path.suffix.lower() != ".csv" or path.is_dir() or not path.parent.is_dir():
            raise ValueError(f"--csv: expected a name that ends with .csv, in a folder that is there; got {path}")
        check_apart([*maps, path], inputs)
        check_writable_file(path)
        if is_taken(path) and not _is_table(path):
            raise FileExistsError(
                f"--csv: expected a new name or a table of compare to replace, {path} is none; choose another name"
            )


def _check_map(path: Path, output: Path, target: Path) -> None:
    if output.is_dir() and path.exists() and not path.is_dir():
        raise ValueError(f"--map: expected a folder for the maps of a folder, {path} is a file")
    for given in (output, target):
        if path.resolve().is_relative_to(given.resolve()):
            raise ValueError(f"--map: expected a place other than what is compared, {path} is {given} or in it")


def _is_array(arguments: argparse.Namespace) -> bool:
    """Whether the map is to be a file of numbers."""
    return bool(arguments.map) and Path(arguments.map).suffix.lower() == ".npy" and not Path(arguments.output).is_dir()


def _check_array(path: Path, inputs: Sequence[Path]) -> None:
    check_apart([path], inputs)
    check_writable_file(path)
    if is_taken(path):
        raise FileExistsError(f"--map: expected a new name, as no .npy says what wrote it, {path} is there; remove it")


def _write_map(place: Path, made: Image.Image | Tensor) -> None:
    make_folder(place.parent)
    if not isinstance(made, Tensor):
        save_picture(place, made)
        return
    import numpy as np

    encoded = io.BytesIO()
    np.save(encoded, made.float().cpu().numpy())
    write_whole(place, encoded.getbuffer())


def _is_table(path: Path) -> bool:
    """Whether it holds what `_write_row` writes, to its last row."""
    try:
        with path.open(newline="", errors="surrogateescape") as file:
            rows = csv.reader(file, strict=True)
            return tuple(next(rows)) == COLUMNS and all(
                label.split(" ", 1)[0] in LABELS and math.isfinite(float(distance)) for _, label, distance in rows
            )
    except (ValueError, csv.Error, StopIteration):  # too few columns or too many, no numbers, nothing at all
        return False


def _map_place(given: str | None, name: str) -> Path | None:
    """Where a pair's map goes: the place given, or in that folder under the picture's name, which may have folders."""
    if not given:
        return None
    return Path(given, name).with_suffix(".png") if name else Path(given)


def _write_row(path: str, row: tuple[str, ...], first: bool) -> None:
    """Adds a row, which is complete in the file before the next pair; the first begins the file anew."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerows([COLUMNS, row] if first else [row])
    (write_whole if first else append_whole)(path, text.getvalue().encode(errors="surrogateescape"))
