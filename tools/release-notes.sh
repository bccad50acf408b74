#!/bin/sh
# Prints the notes of a release: its section of CHANGELOG.md, without its heading. Usage:
#   tools/release-notes.sh VERSION
set -eu
version=${1:?the version, as in Cargo.toml}
cd "$(dirname "$0")/.."
notes=$(awk -v head="## $version " '
    index($0, "## ") == 1 { inside = index($0, head) == 1; next }
    inside { print }
' CHANGELOG.md)
[ -n "$notes" ] || { echo "release-notes: CHANGELOG.md has no section for $version" >&2; exit 1; }
printf '%s\n' "$notes"
