#!/bin/busybox sh
# The guest of the lab, from power-on to an application that stores KPIs. The kernel passes what its command
# line sets as environment: KPI is the name to store under.
set -eu
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do
    insmod "$module"
done
# The store's disk; what the guest has not synced is lost with the VM's power.
mount -t ext4 /dev/vdb /var

say() { echo "lab: $*"; }

# The link is the default one. There is no udev: the guest finds its port by what the kernel says.
vmkpi-guest run --mount /kpi --state /var/vmkpi &
until [ -d /kpi/unencrypted ]; do
    usleep 20000
done
say ready

plain() { printf 'n,half,word\n%d,%d.5,w%d\n' "$1" "$1" "$1" >"/kpi/unencrypted/$KPI"; }
# Long, so that whoever is killed while it reads the link is in the middle of a line.
opaque() { printf '\001\377%30000d' "$1" >"/kpi/encrypted/$KPI"; }

# Goes on where it was when the power failed, in the middle of a pair perhaps.
n=$(tail -n 1 "/kpi/unencrypted/$KPI" 2>/dev/null | cut -d, -f1)
n=${n:-0}
last=$(tail -c +3 "/kpi/encrypted/$KPI" 2>/dev/null | tr -d ' ')
[ "${last:-0}" = "$n" ] || opaque "$n"
say "woke at $n"

# The first disk says when to stop: the host writes a word to it. What is said was stored.
until [ "$(dd if=/dev/vda bs=512 count=1 iflag=direct status=none | head -c 4)" = stop ]; do
    plain $((n + 1))
    opaque $((n + 1))
    n=$((n + 1))
    say "at $n"
done
say "wrote $n"
while :; do
    sleep 3600
done
