#!/bin/sh
# The English text of the quality figures: the Debian FAQ (package debian-faq, 25k words), its paragraphs put on one line each.
#   perf/peers/text.sh OUT.txt
# Taken from the installed package, or else fetched with apt-get download into a folder of its own (no root needed).
set -eu
[ $# -eq 1 ] || { echo "usage: text.sh OUT.txt" >&2; exit 2; }
name=usr/share/doc/debian/FAQ/debian-faq.en.txt.gz
source=/$name
if [ ! -r "$source" ]; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  (cd "$folder" && apt-get download -q debian-faq >&2 && dpkg-deb -x debian-faq_*.deb .)
  source=$folder/$name
fi
# No-break spaces become spaces; the table of contents, before chapter 1, is no prose.
zcat "$source" | LC_ALL=C sed 's/\xc2\xa0/ /g' | awk '
  /^Chapter 1\./ { ++chapters }
  !chapters { next }
  /^[ \t]*$/ || /^-+$/ { if (text != "") print text "\n"; text = ""; next }
  { sub(/^[ \t]+/, ""); sub(/[ \t]+$/, ""); text = text == "" ? $0 : text " " $0 }
  END { if (text != "") print text }' >"$1.tmp"
[ "$(wc -w <"$1.tmp")" -ge 20000 ] || { echo "text.sh: $source is not the text expected" >&2; rm -f "$1.tmp"; exit 3; }
mv "$1.tmp" "$1"
echo "$(wc -w <"$1") words, sha256 $(sha256sum <"$1" | cut -d' ' -f1)" >&2
