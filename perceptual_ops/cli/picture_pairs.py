"""Which picture is compared with which."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..picture_folder import pictures_in
from .skipping import Skipped, namesake

NAMED = 3  # files that an error names before it only counts them


@dataclass(frozen=True)
class PicturePair:
    """Two files, and what the first is called in a table: its path within its folder."""

    name: str
    output: Path
    target: Path


def picture_pairs(
    output: Path, target: Path, skipped: Skipped, skip_unpaired: bool = False
) -> tuple[list[PicturePair], str]:
    """The pairs in the order of their names, and a sentence on what was left out, or nothing.

    Args:
        output: A picture, or a folder whose pictures are found at any depth.
        target: A picture, for one or all of them; or a folder with the same names, whatever the suffixes.
        skipped: Takes what has no name of its own, as another differs in its suffix alone; those whose suffix is in
            both folders come first.
        skip_unpaired: Whether a picture without a partner is left out.

    Raises:
        ValueError: A picture without a partner, a folder without pictures, a folder as the second of
            two that is none as the first.
    """
    if not output.is_dir():
        if target.is_dir():
            raise ValueError(f"{target}: expected a picture, since {output} is no folder; got one")
        return [PicturePair(output.name, output, target)], ""
    if not target.is_dir():
        return [_named(output, path, target) for path in _pictures(output, target, skipped).values()], ""
    outputs, targets = _pictures(output, target, skipped), _pictures(target, output, skipped)
    alone = [path for name, path in outputs.items() if name not in targets]
    alone += [path for name, path in targets.items() if name not in outputs]
    if alone and not skip_unpaired:
        raise ValueError(
            f"{output}, {target}: expected the same names in both, got no partner for {_listed(alone)}; "
            f"--skip-unpaired leaves them out"
        )
    pairs = [_named(output, path, targets[name]) for name, path in outputs.items() if name in targets]
    if not pairs:
        raise ValueError(f"{output}, {target}: expected pictures of the same names, no name is in both")
    return pairs, f"left out {_listed(alone)}, which have no partner" if alone else ""


def _pictures(folder: Path, other: Path, skipped: Skipped) -> dict[str, Path]:
    """The pictures of a folder by their path in it without the suffix, sorted."""
    pictures: dict[str, Path] = {}
    for path in sorted(pictures_in(folder), key=lambda path: not os.path.lexists(other / path.relative_to(folder))):
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in pictures:
            skipped.leave_out(namesake(path, pictures[name]))
        else:
            pictures[name] = path
    return dict(sorted(pictures.items()))


def _named(folder: Path, output: Path, target: Path) -> PicturePair:
    return PicturePair(output.relative_to(folder).as_posix(), output, target)


def _listed(paths: Sequence[Path]) -> str:
    rest = len(paths) - NAMED
    return ", ".join(map(str, paths[:NAMED])) + (f" and {rest} more" if rest > 0 else "")
