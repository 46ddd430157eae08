# shellcheck shell=bash
# Sourced by the scripts beside it: where things are, how they speak, how they fetch. Every word goes to stderr, so that a
# script's stdout is its result alone.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034  # used by those who source this
cache=${XDG_CACHE_HOME:-${HOME:?HOME is not set}/.cache}/spillway
# Objects are found again by any clone on the machine.
export CCACHE_BASEDIR=$root CCACHE_NOHASHDIR=1
export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}

say() { printf '== %s\n' "$*" >&2; }

die() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# quietly WHAT COMMAND...: one line for the stage; the command's own output only if it fails, and then its end.
quietly() {
  local what=$1 log status=0
  shift
  say "$what"
  log=$(mktemp)
  "$@" >"$log" 2>&1 </dev/null || status=$?
  if [ "$status" -ne 0 ]; then
    tail -n 40 "$log" >&2
    printf '%s: failed (exit %d): %s\n' "${0##*/}" "$status" "$what" >&2
  fi
  rm -f "$log"
  return "$status"
}

# unpack_wheels DIR ARGUMENTS...: wheels downloaded by pip from whatever index it is set up for, all unpacked into DIR.
unpack_wheels() {
  local into=$1 wheel
  shift
  python3 -m pip --disable-pip-version-check download --quiet --no-deps --only-binary :all: --dest "$into/whl" "$@" || return
  for wheel in "$into"/whl/*.whl; do
    python3 -m zipfile -e "$wheel" "$into" || return
  done
  rm -r "$into/whl"
}

# build PRESET TARGETS CACHE-ARGUMENTS...: configure and build targets of a preset ("all" for everything).
# shellcheck disable=SC2086  # several targets in one word
build() {
  local preset=$1 target=$2
  shift 2
  cd "$root"
  quietly "configuring build/$preset" cmake --preset "$preset" "$@"
  say "building build/$preset ($target)"
  if [ -t 2 ]; then
    cmake --build --preset "$preset" --target $target >&2
  else
    cmake --build --preset "$preset" --target $target -- --quiet >&2
  fi
}

# The newest clang++ from 16 on that can build a fuzz target. (14 cannot compile <ranges> of libstdc++ 12, and the
# fuzzer's runtime is a package of its own.)
clang_versions=(21 20 19 18 17 16)
fuzzing_clang() {
  local version
  for version in "${clang_versions[@]}"; do
    if command -v "clang++-$version" >/dev/null && "clang++-$version" -x c++ -std=c++20 -fsanitize=fuzzer,address \
      -o /dev/null - >/dev/null 2>&1 <<<'#include <ranges>
        extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }'; then
      echo "clang++-$version"
      return
    fi
  done
  return 1
}
