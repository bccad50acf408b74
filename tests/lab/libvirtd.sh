#!/bin/sh
# A host of its own: runs as the first process of a process namespace, in a mount and a network namespace of its own,
# with what is below $1 in place of what libvirt has on this machine, $2 for its name, and what follows as options of libvirtd. When this process ends, the kernel ends
# everything that was started here, every QEMU too. As the first process it is the parent of
# whatever loses its own, and reaps it at once while it waits: libvirt polls until a QEMU is gone.
set -eu
root=$1
for folder in run etc/libvirt var/lib/libvirt var/log/libvirt var/cache/libvirt; do
    mount --bind "$root/$folder" "/$folder"
done
# Names of hosts that are on the same network.
[ ! -e "$root/etc/hosts" ] || mount --bind "$root/etc/hosts" /etc/hosts
# Its /proc must show this namespace's processes, that of whoever joins the mount namespace must not.
# As on a host with a service manager, libvirtd is started again when it ends; not while there is a file "hold".
# Two hosts between which a VM migrates have two names.
export NAME="$2"
shift 2
while :; do
    [ ! -e "$root/hold" ] || { sleep 0.1; continue; }
    unshare --mount --uts sh -c 'hostname "$NAME" && mount -t proc proc /proc && exec libvirtd "$@"' libvirtd "$@" &
    wait $! || :
done
