#!/bin/sh
# Fuzzes every target for SECONDS each, or those named: tools/fuzz.sh SECONDS [TARGET...]. What it learns is kept
# in target/fuzz/corpus; what breaks a target is written to target/fuzz/artifacts, and is a failure.
#
# libFuzzer on the stable toolchain: the coverage counters are an LLVM pass, and libFuzzer itself comes with
# libfuzzer-sys, compiled from source. No nightly, no further program. --target keeps the counters out of
# build scripts.
set -u
: "${CARGO:=cargo}" "${TARGET:=target}"
seconds=${1:?seconds for each target}
shift
folder=$(cd "$(dirname "$0")/../fuzz" && pwd)
mkdir -p "$TARGET/fuzz"
work=$(cd "$TARGET/fuzz" && pwd)
host=$(cd "$folder" && rustc -vV | sed -n 's/^host: //p')

level=-Cllvm-args=-sanitizer-coverage
(cd "$folder" && CARGO_TARGET_DIR="$work" \
    RUSTFLAGS="-Cpasses=sancov-module $level-level=3 $level-inline-8bit-counters $level-pc-table $level-trace-compares" \
    $CARGO build --locked --release --quiet --target "$host") || exit 1

export FUZZ_PROGRAM="$work/$host/release/vmkpi-fuzz" FUZZ_WORK="$work" FUZZ_SEEDS="$folder" FUZZ_SECONDS="$seconds"
[ $# -gt 0 ] || set -- $(ls "$folder/corpus")
# shellcheck disable=SC2016 # expanded by the inner shell
printf '%s\n' "$@" | xargs -P "$(nproc)" -I{} sh -c '
    mkdir -p "$FUZZ_WORK/corpus/{}" "$FUZZ_WORK/artifacts/{}"
    log="$FUZZ_WORK/{}.log"
    if VMKPI_FUZZ={} "$FUZZ_PROGRAM" -max_total_time="$FUZZ_SECONDS" -timeout=10 -rss_limit_mb=1024 -max_len=16384 \
        -dict="$FUZZ_SEEDS/words.dict" -artifact_prefix="$FUZZ_WORK/artifacts/{}/" -print_final_stats=1 \
        "$FUZZ_WORK/corpus/{}" "$FUZZ_SEEDS/corpus/{}" >"$log" 2>&1
    then
        coverage=$(sed -n "s/.* cov: \([0-9]*\) .*/\1/p" "$log" | tail -n 1)
        printf "%-12s %10s inputs, %6s edges\n" {} "$(sed -n "s/^stat::number_of_executed_units: //p" "$log")" "$coverage"
    else
        tail -n 40 "$log"
        printf "%-12s FAILED; the input is in %s\n" {} "$FUZZ_WORK/artifacts/{}"
        exit 1
    fi'
