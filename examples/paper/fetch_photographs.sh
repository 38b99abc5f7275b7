#!/bin/sh
# Photographs to train on and a style, from Debian's mate-backgrounds (CC-BY-SA-4.0 and GPL-2+) and lomiri-wallpapers-16.04
# (CC-BY-4.0, CC-BY-SA-4.0 and CC0-1.0), into build/photographs and build/style.
set -eu
cd "$(dirname "$0")/../.."
[ -d build/photographs ] && [ -d build/style ] && exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(
    cd "$work"
    apt-get download mate-backgrounds lomiri-wallpapers-16.04
    for package in *.deb; do dpkg -x "$package" .; done
    cd usr/share/backgrounds
    rm analogpattern_by_Peter_Nerlich.jpg umang_by_Abhishek_Mudgal.jpg # no photographs
    mkdir "$work/photographs" "$work/style"
    mv Picture_1A_by_freespace.jpg "$work/style/brushes.jpg"
    find . -maxdepth 1 -type f -name '*.jpg' -exec mv {} "$work/photographs" ';'
    mv mate/nature/*.jpg "$work/photographs"
)
mkdir -p build
rm -rf build/photographs build/style
mv "$work/photographs" "$work/style" build
