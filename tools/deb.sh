#!/bin/sh
# Makes the Debian packages vmkpi, vmkpi-guest and vmkpi-host of programs that are built already. Called by `make deb`.
#   tools/deb.sh BIN_DIR OUT_DIR
# PAGES names the program vmkpi-pages, if it is not in BIN_DIR.
# DPKG_DEB_COMPRESSOR_TYPE and _LEVEL are dpkg-deb's.
# Needs debhelper (tools/setup.sh test), and no root.
set -eu
[ $# = 2 ] || { echo "usage: $0 BIN_DIR OUT_DIR" >&2; exit 2; }
mkdir -p "$2"
programs=$(cd "$1" && pwd)
out=$(cd "$2" && pwd)
root=$(cd "$(dirname "$0")/.." && pwd)
pages=${PAGES:-$programs/vmkpi-pages}
command -v dh >/dev/null || { echo "deb: debhelper is missing: apt-get install debhelper" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM HUP
tree=$work/vmkpi
mkdir -p "$tree/bin"
cp -R "$root/packaging/debian" "$tree/debian"

version=$(sed -n '1s/.*(\(.*\)).*/\1/p' "$tree/debian/changelog")
for program in vmkpi vmkpi-guest vmkpi-host; do
    built=$("$programs/$program" --version)
    if [ "$built" != "$program $version" ]; then
        echo "deb: $programs/$program says \"$built\", packaging/debian/changelog says $version" >&2
        exit 1
    fi
    cp "$programs/$program" "$tree/bin/"
done

"$pages" "$tree/pages"
packaging=$root/packaging
cp -R "$root/docs" "$root/README.md" "$root/examples" "$packaging/prometheus" "$packaging/grafana" "$tree/"
cp "$packaging/guest.toml" "$packaging/host.toml" "$packaging/collect.env" "$packaging/relay.env" "$tree/"
cp "$packaging/vmkpi-guest-network.conf" "$packaging/cloud-init/vmkpi-guest.yaml" "$tree/"
# Where debhelper looks for units and users.
cp "$packaging/vmkpi-guest.service" "$packaging/vmkpi-host.service" "$tree/debian/"
cp "$packaging/vmkpi-collect.service" "$tree/debian/vmkpi.vmkpi-collect.service"
cp "$packaging/vmkpi-relay.service" "$tree/debian/vmkpi.vmkpi-relay.service"
cp "$packaging/vmkpi-host.sysusers" "$packaging/vmkpi.sysusers" "$tree/debian/"
cat "$packaging/debian/libvirt-qemu.sysusers" >>"$tree/debian/vmkpi-host.sysusers"

log=$work/log
(cd "$tree" && debian/rules binary) >"$log" 2>&1 || { cat "$log" >&2; exit 1; }
for package in "$work"/*.deb; do
    mv "$package" "$out/"
    echo "$out/$(basename "$package")"
done
