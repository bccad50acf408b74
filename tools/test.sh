#!/bin/sh
# Everything that must be green. Called by `make test`, which gives CARGO, TARGET and FLAGS. Ends at
# the first stage that fails; prints the time of each.
set -u
: "${CARGO:=cargo}" "${TARGET:=target}" "${FLAGS:=--locked --workspace --features vmkpi/command}"

times=
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# The time of each stage, and how many tests there were in all.
report() {
    printf '\n%-34s %s\n' STAGE SECONDS
    printf '%b\n' "$times"
    awk '/^test result:/ { passed += $4; failed += $6 } END { printf "tests: %d passed, %d failed\n", passed, failed }' "$log"
}

# A stage that counts: what it prints is kept for the report.
tests() {
    { "$@" 2>&1; echo $? >"$log.status"; } | tee -a "$log"
    status=$(cat "$log.status")
    rm -f "$log.status"
    return "$status"
}

stage() {
    name=$1
    shift
    printf '\n== %s\n' "$name"
    begin=$(date +%s)
    if "$@"; then
        times="$times$(printf '%-34s %7d' "$name" $(($(date +%s) - begin)))\n"
    else
        times="$times$(printf '%-34s %7d  FAILED' "$name" $(($(date +%s) - begin)))\n"
        report
        exit 1
    fi
}

# The guest is in someone's VM: small, no asynchronous runtime, no MQTT, no web server. Its link may go over a network by
# TLS, which is rustls with ring and nothing else.
guest_is_small() {
    tree=$($CARGO tree --locked -p vmkpi-guest -e normal --prefix none) || return 1
    if echo "$tree" | grep -E '^(rumqtt|mqtt|virt|axum|hyper|h2|http|tokio|mio|rustls-native-certs|aws-lc|native-tls|openssl|reqwest)' ; then
        echo "the guest's dependency tree holds what it must not (above)"
        return 1
    fi
    echo "$(echo "$tree" | sort -u | wc -l) crates, none of MQTT, libvirt, a web server or aws-lc"
}

# Licences, bans and advisories (deny.toml). Not installed by setup: compiling it takes minutes. Without it
# tests/shipped/dependencies.rs checks all but advisories, which the forge's audit does each day.
dependencies() {
    if ! command -v cargo-deny >/dev/null; then
        echo "cargo-deny is not installed: advisories are not checked here (.github/workflows/audit.yml does)"
        return 0
    fi
    $CARGO deny --workspace --all-features check
}

# The tests over real parts, those in virtual machines beside the others: both wait more than they compute. What the
# former say comes when the latter have ended.
real_parts() {
    machines='migration contexts vm'
    names=$($CARGO metadata --locked --no-deps --format-version 1 |
        jq -r '.packages[].targets[] | select(.kind == ["test"]) | .name') || return 1
    others=
    for name in $names; do
        case " $machines " in *" $name "*) ;; *) others="$others --test $name" ;; esac
    done
    # shellcheck disable=SC2046 # several words
    setsid $CARGO test $FLAGS --quiet --no-fail-fast $(printf -- ' --test %s' $machines) >"$log.machines" 2>&1 &
    beside=$!
    # With all that it has started: a shell's background does not hear the terminal's.
    trap 'kill -- -$beside 2>/dev/null; rm -f "$log.machines"' EXIT
    trap 'exit 1' INT TERM HUP
    $CARGO test $FLAGS --quiet --no-fail-fast $others
    status=$?
    wait $beside || status=1
    cat "$log.machines"
    return $status
}

# tools/fuzz.sh reads them too.
export CARGO TARGET
export VMKPI_BIN_DIR="${VMKPI_BIN_DIR:-$(mkdir -p "$TARGET/debug" && cd "$TARGET/debug" && pwd)}"

# shellcheck disable=SC2086 # FLAGS are several words
{
    stage "set-up" tools/setup.sh test
    stage "format" $CARGO fmt --all --check
    stage "format of the fuzz targets" $CARGO fmt --manifest-path fuzz/Cargo.toml --check
    stage "guest's dependencies" guest_is_small
    stage "dependencies" dependencies
    stage "build" $CARGO build $FLAGS
    stage "lints" $CARGO clippy $FLAGS --all-targets --quiet -- -D warnings
    stage "earlier programs" tools/earlier.sh
    stage "build tests" $CARGO test $FLAGS --no-run --quiet
    stage "unit and property tests" tests $CARGO test $FLAGS --quiet --no-fail-fast --lib --bins
    stage "fuzzing, 5 s a target" tools/fuzz.sh 5
    stage "documentation tests" tests $CARGO test $FLAGS --quiet --doc
    export RUST_TEST_THREADS=4
    stage "over real parts, end to end" tests real_parts
}
report
