#!/bin/sh
# What the experiments learn from, out of Debian's packages, into build/photographs (for super-resolution: in full size,
# from mate-backgrounds, CC-BY-SA-4.0 and GPL-2+, and lomiri-wallpapers-16.04, CC-BY-4.0, CC-BY-SA-4.0 and CC0-1.0),
# build/scenes (for styles: buildings and animals in focus, from gcompris-qt-data, CC and public domain, picture by
# picture) and build/style (Van Gogh's Cafe Terrace at Night, from the same).
set -eu
cd "$(dirname "$0")/../.."
here=$PWD/examples/paper
[ -d build/photographs ] && [ -d build/scenes ] && [ -d build/style ] && exit 0
mkdir -p build
work=$(mktemp -d "$PWD/build/fetch.XXXXXX") # beside its target: what is moved is there whole or not at all
trap 'rm -rf "$work"' EXIT
(
    cd "$work"
    apt-get download mate-backgrounds lomiri-wallpapers-16.04 gcompris-qt-data
    for package in *.deb; do dpkg -x "$package" .; done
    mkdir photographs scenes style paintings
    for name in explore_monuments explore_world_animals explore_farm_animals; do
        python3 "$here/qt_resources.py" usr/share/gcompris-qt/rcc/$name.rcc scenes
    done
    python3 "$here/qt_resources.py" usr/share/gcompris-qt/rcc/details.rcc paintings
    mv paintings/Gogh4_background.webp style/cafe.webp
    cd usr/share/backgrounds
    # Two that are no photographs, and one of bristles alone.
    rm analogpattern_by_Peter_Nerlich.jpg umang_by_Abhishek_Mudgal.jpg Picture_1A_by_freespace.jpg
    find . -maxdepth 1 -type f -name '*.jpg' -exec mv {} "$work/photographs" ';'
    mv mate/nature/*.jpg "$work/photographs"
)
rm -rf build/photographs build/scenes build/style
mv "$work/photographs" "$work/scenes" "$work/style" build
