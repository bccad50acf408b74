#!/bin/busybox sh
# The guest of the lab, from power-on to an application that stores KPIs. The kernel passes what its command
# line sets as environment: KPI is the name to store under.
set -eu
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /var
for module in /modules/*; do
    insmod "$module"
done

say() { echo "lab: $*"; }

# The link is the default one. There is no udev: the guest finds its port by what the kernel says.
vmkpi-guest run --mount /kpi --state /var/vmkpi &
until [ -d /kpi/unencrypted ]; do
    usleep 20000
done
say ready

# The disk says when to stop: the host writes a word to it.
n=0
until [ "$(dd if=/dev/vda bs=512 count=1 iflag=direct status=none | head -c 4)" = stop ]; do
    n=$((n + 1))
    printf 'n,half,word\n%d,%d.5,w%d\n' "$n" "$n" "$n" >"/kpi/unencrypted/$KPI"
    # Long, so that whoever is killed while it reads the link is in the middle of a line.
    printf '\001\377%30000d' "$n" >"/kpi/encrypted/$KPI"
    [ $((n % 10)) != 0 ] || say "at $n"
done
say "wrote $n"
while :; do
    sleep 3600
done
