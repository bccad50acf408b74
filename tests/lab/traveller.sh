#!/bin/busybox sh
# The guest that migrates, from power-on to an application that stores RATE rows a second, which the kernel's command
# line sets. It does what it is told by the first disk, and answers on its console.
set -eu
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in /modules/*; do
    insmod "$module"
done
mount -t ext4 /dev/vdb /var
ip link set lo up
ip address add 10.0.2.15/24 dev eth0
ip link set eth0 up
ip route add default via 10.0.2.2

say() { echo "lab: $*"; }

# Its settings are in /etc/vmkpi/guest.toml.
vmkpi-guest run 2>/var/guest.log &
until [ -d /kpi/unencrypted ]; do
    usleep 20000
done
say ready

# A pipe that nobody writes to is a clock: waiting at it starts no process, which costs an emulated processor much.
mkfifo /tick
exec 3<>/tick

# An order is its number in a line, and a script; a new number is a new order.
orders() {
    done=0
    while :; do
        dd if=/dev/vda of=/order bs=4096 count=1 iflag=direct status=none
        number=0
        read -r number </order || :
        if [ "${number:-0}" != "$done" ]; then
            tr -d '\0' </order | sed 1d >/order.sh
            status=0
            sh /order.sh >/order.out 2>&1 </dev/null || status=$?
            sed "s/^/lab: $number> /" /order.out
            say "done $number $status"
            done=$number
        fi
        # Seldom: this costs the processor that the application needs.
        read -r -t 0.3 _ <&3 || :
    done
}
orders &

# Nothing from here on starts a process.
# Centiseconds since power-on, without zeros before it: those would make it octal.
centis() {
    read -r up _ </proc/uptime
    now=${up%.*}${up#*.}
    now=${now#"${now%%[!0]*}"}
}
centis
start=$now n=0
while [ ! -e /stop ]; do
    centis
    due=$(((now - start) * RATE / 100))
    while [ "$n" -lt "$due" ] && [ ! -e /stop ]; do
        n=$((n + 1))
        printf 'n,half\n%d,%d.5\n' "$n" "$n" >/kpi/unencrypted/load
        [ $((n % 50)) != 0 ] || say "at $n"
    done
    read -r -t 0.004 _ <&3 || :
done
say "wrote $n"
while :; do
    sleep 3600
done
