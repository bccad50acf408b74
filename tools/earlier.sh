#!/bin/sh
# Builds the programs of earlier states of this repository (tests/compat/versions) for the compatibility test, into
# $TARGET/compat/NAME. Done once: what is there is left alone. Usage:
#   tools/earlier.sh          all of them
#
# They are built in the same target directory and by the same profile as ours, so that what both lock files agree on
# is there already; their own programs have the version's name behind theirs there, so that they are not taken for ours.
set -eu
: "${CARGO:=cargo}" "${TARGET:=target}"
cd "$(dirname "$0")/.."
mkdir -p "$TARGET/compat"
target=$(cd "$TARGET" && pwd)
programs="vmkpi vmkpi-guest vmkpi-host"

# The development profile of now, in place of theirs.
profile() {
    echo '[profile.dev.package."*"]'
    echo 'opt-level = 0'
    sed -n '/^\[profile\.dev\]/,$p' Cargo.toml
}

build() {
    name=$1 commit=$2
    source="$target/compat/source-$name"
    rm -rf "$source"
    mkdir -p "$source"
    git archive "$commit" | tar -x -C "$source"
    for manifest in Cargo.toml guest/Cargo.toml host/Cargo.toml; do
        sed -i "/^\[\[bin\]\]/,/^path/ s/^name = \"\(.*\)\"/name = \"\1-$name\"/" "$source/$manifest"
    done
    profile >"$target/compat/profile.toml"
    (cd "$source" && CARGO_INCREMENTAL=0 $CARGO build --quiet --locked --workspace --features vmkpi/command \
        --config "$target/compat/profile.toml" --target-dir "$target" \
        --bin "vmkpi-$name" --bin "vmkpi-guest-$name" --bin "vmkpi-host-$name")
    mkdir -p "$target/compat/$name"
    for program in $programs; do
        # Without line tables: they are two thirds of it.
        strip --strip-debug -o "$target/compat/$name/$program" "$target/debug/$program-$name"
        rm "$target/debug/$program-$name"
    done
    rm -rf "$source"
    echo "$commit" >"$target/compat/$name/commit"
}

is_there() {
    [ "$(cat "$target/compat/$1/commit" 2>/dev/null)" = "$2" ]
}

grep -v '^#' tests/compat/versions | while read -r name commit _; do
    if is_there "$name" "$commit"; then
        echo "$name: is there"
    elif git cat-file -e "$commit^{commit}" 2>/dev/null; then
        build "$name" "$commit"
        echo "$name: built from $commit"
    elif [ -n "${VMKPI_FULL_HISTORY:-}" ]; then
        echo "$name: commit $commit is not in this repository's history" >&2
        exit 1
    else
        echo "$name: skipped, commit $commit is not in this clone: git fetch --unshallow"
    fi
done
