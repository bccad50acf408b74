mkdir -m 700 site kpi backup etc
printf 'listener 1883 127.0.0.1\nallow_anonymous true\n' > mosquitto.conf
mosquitto -c mosquitto.conf 2> broker.log &
vmkpi key new seal sign --dir keys > keys.log
cat > shop.toml <<EOT
vm = "shop-frontend-1"
primary_site = "acme"
[[confirm]]
name = "acme-collect"
key = $(vmkpi key show keys/sign.pub.pem | sed -n 's/^ *key = //p')
[[monitor]]
point = "unencrypted/*"
EOT
echo 'OPTIONS=--listen 127.0.0.1:9106 --name acme-collect --sign-key-file keys/sign.key.pem' > etc/collect.env
start() {
    # What an earlier one has said is not this one's word.
    [ "$1" != vmkpi-collect ] || rm -f collect.log
    case $1 in
    vmkpi-guest) vmkpi-guest run --mount kpi --state guest --link "unix:$PWD/guest.sock" 2>> guest.log & ;;
    vmkpi-host) vmkpi-host run --libvirt.uri test:///default --state host --web.listen-address 127.0.0.1:9878 \
        --broker mqtt://127.0.0.1:1883 --descriptor test=shop.toml --guest "test=unix:$PWD/guest.sock" 2>> host.log & ;;
    vmkpi-collect) vmkpi collect --broker mqtt://127.0.0.1:1883 --db site/kpi.db \
        $(sed -n 's/^OPTIONS=//p' etc/collect.env) 2> collect.log & ;;
    esac
    echo $! > "$1.pid"
}
# systemctl start|stop|reload UNIT...
systemctl() {
    for unit in "${@:2}"; do
        case $1 in
        start) start "$unit" ;;
        stop) kill "$(cat "$unit.pid")"; wait "$(cat "$unit.pid")" ;;
        reload) kill -HUP "$(cat "$unit.pid")" ;;
        esac
    done
    until [ -d kpi/unencrypted ] || [ "$1 $2" = "stop vmkpi-guest" ]; do sleep 0.1; done
}
journalctl() { cat collect.log; }
sudo() { [ "$1" != -u ] || shift 2; "$@"; }
systemctl start vmkpi-guest vmkpi-host vmkpi-collect
for users in 41 42 43; do printf "current_users\n$users\n" > kpi/unencrypted/web; done
# Until the guest has heard that they have arrived: a host that is stopped before would have to deliver them again.
until [ "$(sqlite3 site/kpi.db 'SELECT count(*) FROM samples' 2> /dev/null)" = 3 ] &&
    vmkpi-guest status --state guest | grep -q ' 0 rows unacknowledged'; do sleep 0.1; done
