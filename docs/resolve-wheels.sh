#!/usr/bin/env bash
# Shows that every pin of constraints.txt has a wheel for a 64-bit Raspberry Pi OS and for an x86-64 PC, on Python
# 3.11 and 3.13. Downloads about 1.5 GB into a temporary folder and deletes it again.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
grep -E '^[A-Za-z0-9_.-]+==' constraints.txt >"$folder/pins.txt"

for machine in aarch64 x86_64; do
  for python in 3.11 3.13; do
    platforms=()
    for tag in manylinux_2_28 manylinux_2_27 manylinux_2_26 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux1 manylinux_2_5; do
      platforms+=(--platform "${tag}_${machine}")
    done
    python3 -m pip download --quiet --no-deps --only-binary=:all: --implementation cp --python-version "$python" \
      "${platforms[@]}" --dest "$folder/$machine-$python" --requirement "$folder/pins.txt"
    echo "$machine, Python $python: $(find "$folder/$machine-$python" -name '*.whl' | wc -l) wheels for $(wc -l <"$folder/pins.txt") pins"
    rm -rf "$folder/${machine:?}-$python"
  done
done
