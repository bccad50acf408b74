#!/bin/sh
# What is promised of the guest program as it is shipped: it needs libc and nothing else, is small, and its peak of
# memory stays under 8 MB with 16 tables and as many writers. Called by `make release`. Usage:
#   tools/check-release.sh PROGRAM
set -eu

program=$1
# 1.3 MB of it are TLS (rustls and ring), for links over a network.
most_bytes=$((6 * 1024 * 1024))
most_peak_kib=8000

# The virtual shared object is the kernel's, the loader is libc's.
others=$(ldd "$program" | grep -v -e 'linux-vdso' -e 'libc\.so\.6' -e 'ld-linux' -e 'statically linked' || true)
if [ -n "$others" ]; then
    echo "check-release: $program needs more than libc:" >&2
    echo "$others" >&2
    exit 1
fi
size=$(stat -c %s "$program")
if [ "$size" -gt "$most_bytes" ]; then
    echo "check-release: $program has $size bytes; at most $most_bytes are promised" >&2
    exit 1
fi
echo "check-release: $size bytes, needs libc alone"

# As root or where fusermount3 is set-uid; elsewhere the memory is not measured.
if ! [ -w /dev/fuse ]; then
    echo "check-release: /dev/fuse is not there, memory not measured"
    exit 0
fi
work=$(mktemp -d)
daemon=
stop() {
    [ -z "$daemon" ] || { kill "$daemon" 2>/dev/null && wait "$daemon" || true; }
    rm -rf "$work"
}
trap stop EXIT
trap 'exit 1' INT TERM
: >"$work/guest.toml"
"$program" run --config "$work/guest.toml" --mount "$work/kpi" --state "$work/state" \
    --link "unix:$work/link.sock" &
daemon=$!
tries=0
until [ -S "$work/state/control.sock" ]; do
    tries=$((tries + 1))
    [ "$tries" -le 300 ] || { echo "check-release: it does not start" >&2; exit 1; }
    sleep 0.1
done
writers=
for table in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do
    (
        row=0
        while [ "$row" -lt 500 ]; do
            row=$((row + 1))
            printf 'current_users,load\n%d,0.7\n' "$row" >"$work/kpi/unencrypted/table$table"
        done
    ) &
    writers="$writers $!"
done
# shellcheck disable=SC2086 # several processes
wait $writers
peak=$(awk '/^VmHWM:/ { print $2 }' "/proc/$daemon/status")
if [ "$peak" -gt "$most_peak_kib" ]; then
    echo "check-release: a peak of $peak KiB with 16 tables and 16 writers; at most $most_peak_kib are promised" >&2
    exit 1
fi
echo "check-release: a peak of $peak KiB with 16 tables and 16 writers"
