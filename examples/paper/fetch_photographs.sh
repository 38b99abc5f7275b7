#!/bin/sh
# Photographs of nature to train on, from Debian's package mate-backgrounds (CC-BY-SA-4.0 and GPL-2+); into build/photographs.
set -eu
cd "$(dirname "$0")/../.."
[ -d build/photographs ] && exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$work" && apt-get download mate-backgrounds && dpkg -x mate-backgrounds_*.deb .)
mkdir -p build
cp -r "$work/usr/share/backgrounds/mate/nature" "$work/photographs"
mv "$work/photographs" build/photographs
