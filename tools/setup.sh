#!/bin/sh
# Installs the Debian packages that are missing, and nothing when all are there. Usage:
#   tools/setup.sh demo     what building and the demo need
#   tools/setup.sh test     that, and what the tests run against
#   tools/setup.sh peers    that, and the exporters that vmkpi-host is measured beside
#   tools/setup.sh deb      what building and making packages need
#   tools/setup.sh static   what building a static guest needs
# No service is started: tests bring up their own.
set -eu

# gcc, libc6-dev: SQLite is compiled in, and Rust links with cc. libvirt-dev brings libvirt itself,
# whose test driver needs no daemon. fuse3: fusermount3, for mounting without root.
packages="gcc libc6-dev make pkg-config libvirt-dev fuse3"
what=${1:-test}
case "$what" in
    demo) ;;
    # debhelper: the packages.
    deb) packages="$packages debhelper" ;;
    # musl-tools: a libc to link statically.
    static) packages="$packages musl-tools" ;;
    # mosquitto: a real broker and 3.1.1 clients. prometheus: promtool. strace: injected I/O errors.
    # faketime: clocks that jump. python3-jwcrypto, node, java: other libraries' envelopes and signatures.
    # libxml2-utils: xmllint, a validator of XML schemas that is not ours.
    # libvirt, qemu, busybox, cpio, kmod, e2fsprogs: the virtual machine; its kernel the test fetches itself.
    # g++: libFuzzer, for the fuzz targets. iproute2: sites with networks of their own. openssl: their certificates.
    # xorriso: another reader and writer of contexts' images.
    # curl, jq, sqlite3: what the documentation's commands use, which tests run as they stand.
    test | peers)
        packages="$packages g++ mosquitto mosquitto-clients prometheus python3 python3-jwcrypto strace faketime libxml2-utils"
        packages="$packages curl iproute2 jq openssl sqlite3 xorriso"
        packages="$packages libvirt-daemon-system libvirt-clients qemu-system-x86 busybox-static cpio kmod e2fsprogs"
        # debhelper, lintian: the packages. mmdebstrap, systemd-container: a clean root to install them in, booted.
        # man-db, zsh, fish: what reads the manual pages and completions.
        packages="$packages debhelper lintian mmdebstrap systemd-container man-db zsh fish"
        # chromium, chromium-driver: the page of vmkpi collect in a real browser.
        packages="$packages chromium chromium-driver"
        # Readers of published messages, in examples/.
        packages="$packages node-mqtt python3-paho-mqtt"
        # For the same: gcc's Go has half the size of the other.
        command -v go >/dev/null || packages="$packages gccgo-go"
        # Any that is there will do, wherever it is from.
        command -v node >/dev/null || packages="$packages nodejs"
        command -v javac >/dev/null || packages="$packages default-jdk-headless"
        # Where systemd does not run, libvirt need not bring it along.
        [ -d /run/systemd/system ] || packages="$packages libvirt-daemon-system-sysv"
        ;;
    *) echo "usage: $0 [demo|test|peers|deb|static]" >&2; exit 2 ;;
esac
# libmicrohttpd, libprotobuf-c: of collectd's write_prometheus, which collectd-core only recommends; libmosquitto: of its mqtt.
[ "$what" != peers ] || packages="$packages prometheus-libvirt-exporter collectd-core libmicrohttpd12 libprotobuf-c1"
# What takes an application's values elsewhere: the textfile collector, and a gateway to push to.
[ "$what" != peers ] || packages="$packages prometheus-node-exporter prometheus-pushgateway libmosquitto1"

missing=
for package in $packages; do
    # shellcheck disable=SC2016 # the format is dpkg-query's
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

as_root=
if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "setup: install as root:$missing" >&2; exit 1; }
    as_root="sudo"
fi

echo "setup: installing$missing"
# Debian asks this file whether a service may be started at installation (invoke-rc.d(8)).
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | $as_root tee "$policy" >/dev/null
    $as_root chmod 755 "$policy"
    trap '$as_root rm -f "$policy"' EXIT
    trap 'exit 1' INT TERM HUP
fi
install() {
    # shellcheck disable=SC2086 # several words each
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
}
# The lists may be old or absent; fetch them only then.
install >/dev/null 2>&1 || { $as_root apt-get update -qq && install; }
