#!/usr/bin/env bash
# Runs every fuzz target for SECONDS (60 unless told; the least exposed for half of them, tests/README.md), under the
# address and undefined-behaviour sanitizers, from the committed corpus. CTest prints the input that fails.
#   scripts/fuzz.sh [SECONDS]
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

seconds=${1:-60}
[[ $seconds =~ ^[0-9]+$ ]] || die "usage: scripts/fuzz.sh [SECONDS]"
"$root/scripts/install.sh" build test fuzz
if ! clang=$(fuzzing_clang); then
  say "no clang 16 or newer can be had here: the fuzz targets are not built"
  exit 0
fi
build fuzz tests/fuzz/all "-DCMAKE_CXX_COMPILER=$clang" "-DCMAKE_C_COMPILER=${clang/++/}" \
  "-DSPILLWAY_FUZZ_SECONDS=$seconds"
say "fuzzing, $seconds s a target, half of it for files that are our own"
exec ctest --preset fuzz -j "$(nproc)"
