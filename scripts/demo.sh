#!/usr/bin/env bash
# From a fresh Debian or Ubuntu to an answer: installs what is needed, builds, fetches a small model, and asks it.
#   scripts/demo.sh ["your prompt"]
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

case ${1:-} in
  -h | --help)
    sed -n '2,3s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac
prompt=${*:-Why is the sky blue? Answer in two sentences.}
"$root/scripts/install.sh" build
# Where the tests are configured already, they stay so.
only=()
[ -e "$root/build/cpu/CMakeCache.txt" ] || only=(-DSPILLWAY_TESTS=OFF -DSPILLWAY_PERF=OFF)
build cpu spillway "${only[@]}"
model=$("$root/scripts/fetch-model.sh")
say "spillway chat -m $model -p \"$prompt\""
exec "$root/build/cpu/apps/spillway" chat -m "$model" -p "$prompt"
