#!/usr/bin/env bash
# Installs the Debian or Ubuntu packages that Spillway needs; does nothing where all of them are there.
#   scripts/install.sh [build] [test] [fuzz]      (build and test if none is named)
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

build_packages=(g++ cmake ninja-build ccache pkg-config libhwloc-dev liburing-dev libmimalloc-dev libcli11-dev libeigen3-dev
  nlohmann-json3-dev libfmt-dev libpcre2-dev libutf8proc-dev libxxhash-dev libedit-dev python3 python3-pip)
test_packages=(libgtest-dev libgmock-dev libboost-context-dev)

# A tool may have come another way than by its package.
have_tool() {
  case $1 in
    g++ | cmake | ccache | pkg-config | python3) command -v "$1" ;;
    ninja-build) command -v ninja ;;
    python3-pip) python3 -m pip --version ;;
    *) false ;;
  esac >/dev/null 2>&1
}

# Sets `missing` to those of the packages given that are neither installed nor there as a tool.
find_missing() {
  local package installed
  installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "$@" 2>/dev/null || true)
  missing=()
  for package in "$@"; do
    grep -qxF "installed $package" <<<"$installed" || have_tool "$package" || missing+=("$package")
  done
}

# Sets `missing` to the newest clang of this release that can build fuzz targets; to nothing if it has none.
find_clang() {
  local version
  missing=()
  for version in "${clang_versions[@]}"; do
    if [[ $(apt-cache policy "libclang-rt-$version-dev") == *"Candidate: "[0-9]* ]]; then
      missing=("clang-$version" "libclang-rt-$version-dev")
      return
    fi
  done
  say "this release has no clang 16 or newer"
}

become_root() {
  [ "$(id -u)" = 0 ] && return
  command -v sudo >/dev/null && { sudo -n true 2>/dev/null || { [ -t 0 ] && sudo -v; }; } && return
  die "packages are missing, and there is no way to become root from here. Run this as root, then try again:
  apt-get update && apt-get install -y --no-install-recommends $*"
}

apt() {
  local command=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 "$@")
  if [ "$(id -u)" = 0 ]; then "${command[@]}"; else sudo "${command[@]}"; fi
}

install_missing() {
  [ ${#missing[@]} -gt 0 ] || return 0
  become_root "${missing[@]}"
  quietly "installing ${missing[*]}" apt install -y --no-install-recommends "${missing[@]}"
}

update_lists() {
  become_root "$@"
  quietly "reading the package lists" apt update || say "going on with the lists at hand"
}

wanted=()
fuzz=no
[ $# -gt 0 ] || set -- build test
for group in "$@"; do
  case $group in
    build) wanted+=("${build_packages[@]}") ;;
    test) wanted+=("${test_packages[@]}") ;;
    fuzz) fuzz=yes ;;
    *) die "unknown group '$group': build, test, fuzz" ;;
  esac
done
if ! command -v apt-get >/dev/null; then
  say "no apt-get here: the libraries must come another way, and CMake names those that are missing"
  exit 0
fi

if [ ${#wanted[@]} -gt 0 ]; then
  find_missing "${wanted[@]}"
  [ ${#missing[@]} -eq 0 ] || update_lists "${missing[@]}"
  install_missing
fi
if [ "$fuzz" = yes ] && ! fuzzing_clang >/dev/null; then
  update_lists clang-N libclang-rt-N-dev, N being 16 or more
  find_clang
  install_missing
fi
