#!/bin/sh
# Fetches the stock kernel for virtual machines into the folder $1; nothing is installed.
set -eu
cd "$1"
get() {
    # The package without a version in its name only depends on the newest.
    package=$(apt-cache depends --important linux-image-cloud-amd64 |
        sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -n 1)
    [ -n "$package" ] && apt-get download -qq -o APT::Sandbox::User=root "$package"
}
# The lists may be old or absent; fetch them only then.
get || { apt-get update -qq && get; }
dpkg -x ./*.deb .
rm ./*.deb
for tree in lib/modules/*; do
    depmod -b . "${tree##*/}"
done
