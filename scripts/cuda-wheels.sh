#!/usr/bin/env bash
# The CUDA compiler from PyPI's wheels, for a machine without the CUDA Toolkit: unpacked side by side under one root in the
# user's cache. Prints the root; ROOT/bin/nvcc is the compiler. The versions, with their hashes, are in cuda-wheels.txt.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

pins=$root/scripts/cuda-wheels.txt
version=$(sed -n 's/^nvidia-cuda-nvcc==\([0-9.]*\).*/\1/p' "$pins")
toolkit=$cache/cuda-$version-$(sha256sum "$pins" | cut -c 1-8)

if [ ! -x "$toolkit/bin/nvcc" ]; then
  [ "$(uname -m)" = x86_64 ] || die "the pinned wheels of the CUDA compiler are for x86_64, and this is $(uname -m)"
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/fetch.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  quietly "fetching the CUDA compiler $version (130 MB of wheels)" unpack_wheels "$work" --require-hashes -r "$pins"
  unpacked=$(echo "$work"/nvidia/cu*)
  # A wheel unpacked by zipfile has lost its run bits, and nvcc.profile looks for lib64 where the wheels have lib.
  find "$unpacked/bin" "$unpacked/nvvm/bin" -type f -exec chmod +x {} +
  ln -s lib "$unpacked/lib64"
  "$unpacked/bin/nvcc" --version >/dev/null || die "the nvcc of the wheels does not start"
  rm -rf "$toolkit"
  mv "$unpacked" "$toolkit"
fi
echo "$toolkit"
