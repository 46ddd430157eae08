#!/usr/bin/env bash
# Installs what is needed, builds everything and runs the tests.
#   scripts/test.sh [--preset cpu|cuda|asan|tsan] [--folders "kernels memory ..."] [-R REGEX]
# --folders builds and runs the tests of these folders alone.
# Without --preset: cuda where a CUDA compiler can be had, else cpu. SPILLWAY_CUDA says what "can be had" means:
#   auto    the system's nvcc; else, where an NVIDIA driver is present, the compiler from PyPI's wheels (the default)
#   on      the system's nvcc, else the wheels; it is an error if neither can be had
#   wheels  the wheels, whatever the system has
#   off     no CUDA module
# CUDAARCHS is CMake's own: the GPU architectures of a build that is new ("90a-real"; all that Spillway knows without it).
# With CI set, the registers and spills of every kernel are printed; they lie in build/cuda/kernels/cuda/ptxas.txt.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

preset=
folders=
select=()
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help)
      sed -n '2,11s/^# \{0,1\}//p' "$0"
      exit 0
      ;;
    --preset) preset=${2:?--preset needs a name} ;;
    --folders)
      folders=${2:?--folders needs names}
      select+=(-E NOT_BUILT)
      ;;
    -R) select+=(-R "${2:?-R needs a regular expression}") ;;
    *) die "unknown argument '$1' (usage: scripts/test.sh [--preset cpu|cuda|asan|tsan] [--folders NAMES] [-R REGEX])" ;;
  esac
  shift 2
done

# The system's nvcc, if it is new enough for C++20 and today's g++.
system_nvcc() {
  local nvcc release
  nvcc=$(PATH=$PATH:/usr/local/cuda/bin command -v "${CUDACXX:-nvcc}") || return
  release=$("$nvcc" --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
  if [ "$(printf '%s\n' 12.4 "$release" | sort -V | head -n 1)" != 12.4 ]; then
    say "$nvcc is CUDA $release; Spillway needs 12.4 or newer"
    return 1
  fi
  echo "$nvcc"
}

nvidia_driver() { [ -e /proc/driver/nvidia/version ] || command -v nvidia-smi >/dev/null; }

# Sets `nvcc`, empty where the module is not to be built.
find_nvcc() {
  local wish=${SPILLWAY_CUDA:-auto}
  nvcc=
  case ${wish,,} in
    off) say "SPILLWAY_CUDA=off: the CUDA module is not built" && return ;;
    wheels) ;;
    on | auto) nvcc=$(system_nvcc) && return ;;
    *) die "SPILLWAY_CUDA=$wish: auto, on, wheels or off" ;;
  esac
  if [ "${wish,,}" = auto ] && ! nvidia_driver; then
    say "no CUDA compiler and no NVIDIA driver here: the CUDA module is not built (SPILLWAY_CUDA=wheels fetches a compiler)"
  elif nvcc=$("$root/scripts/cuda-wheels.sh"); then
    nvcc+=/bin/nvcc
  elif [ "${wish,,}" = auto ]; then
    say "the CUDA compiler cannot be had: the CUDA module is not built"
  else
    die "SPILLWAY_CUDA=$wish, and the CUDA compiler cannot be had"
  fi
}

"$root/scripts/install.sh" build test
configure=(-DSPILLWAY_TESTS=ON)
if [ -z "$preset" ] || [ "$preset" = cuda ]; then
  find_nvcc
  if [ -n "$nvcc" ]; then
    preset=cuda
    configure+=("-DCMAKE_CUDA_COMPILER=$nvcc")
    export CUDACXX=$nvcc
    say "CUDA compiler: $nvcc"
  elif [ "$preset" = cuda ]; then
    die "--preset cuda needs a CUDA compiler"
  else
    preset=cpu
  fi
fi
case $preset in cpu | cuda) configure+=(-DSPILLWAY_PERF=ON) ;; esac
targets=all
[ -z "$folders" ] || targets=$(printf '%s_tests ' $folders)
build "$preset" "$targets" "${configure[@]}"
if [ "$preset" = cuda ] && [ -z "$folders" ] && [ -n "${CI:-}" ]; then
  say "registers and spills (build/cuda/kernels/cuda/ptxas.txt)"
  cat "$root/build/cuda/kernels/cuda/ptxas.txt" >&2
fi

if SPILLWAY_MODEL=$("$root/scripts/fetch-model.sh"); then
  export SPILLWAY_MODEL
else
  unset SPILLWAY_MODEL
  say "SmolLM2 cannot be had here: the tests that need a real model are skipped"
fi

# The sanitizers' shadow memory has its fixed place, which a much randomised address space may have taken.
fixed=()
case $preset in
  asan | tsan) ! setarch --addr-no-randomize true 2>/dev/null || fixed=(setarch --addr-no-randomize) ;;
esac
say "testing build/$preset"
exec "${fixed[@]}" ctest --preset "$preset" -j "$(nproc)" "${select[@]}"
