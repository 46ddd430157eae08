#!/usr/bin/env bash
# Fuzzes every target for SECONDS (60 unless told), under the address and undefined-behaviour sanitizers, from the corpus
# in tests/fuzz/corpus. An input that fails is left in build/fuzz.
#   scripts/fuzz.sh [SECONDS]
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

seconds=${1:-60}
"$root/scripts/install.sh" build fuzz
if ! clang=$(fuzzing_clang); then
  say "no clang 16 or newer can be had here: the fuzz targets are not built"
  exit 0
fi
build fuzz fuzz_targets "-DCMAKE_CXX_COMPILER=$clang" "-DCMAKE_C_COMPILER=${clang/++/}"

found=$(mktemp -d)
trap 'rm -rf "$found"' EXIT
for target in build/fuzz/tests/fuzz/*_fuzz; do
  [ -x "$target" ] || die "no fuzz target was built"
  name=$(basename "$target" _fuzz)
  mkdir "$found/$name"
  quietly "fuzzing $name for $seconds s" "$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
    -artifact_prefix=build/fuzz/ "$found/$name" "tests/fuzz/corpus/$name"
done
