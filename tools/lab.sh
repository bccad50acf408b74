#!/bin/sh
# Two hosts with a guest that migrates between them, and a shell to try things in; called by `make lab`, which gives TARGET.
# Nothing is left, however it ends: processes end with the program that started them, its folder is removed here.
set -eu
: "${TARGET:=target}"
programs=$(cd "$TARGET/debug" && pwd)
TMPDIR=$(mktemp -d "${TMPDIR:-/tmp}/vmkpi-lab-XXXXXX")
export TMPDIR
export VMKPI_BIN_DIR="${VMKPI_BIN_DIR:-$programs}"
# Whoever is still ending may write until then.
clean() {
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        rm -rf "$TMPDIR" 2>/dev/null && return
        sleep 0.5
    done
    echo "lab: not removed: $TMPDIR" >&2
}
trap clean EXIT
trap 'exit 1' INT TERM HUP
"$programs/vmkpi-lab"
