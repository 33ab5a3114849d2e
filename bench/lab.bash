# shellcheck shell=bash
# Sourced by bench/run, bench/vpn and bench/wireguard: two network namespaces joined by a veth pair of MTU 1500,
# and what both scripts start in them. Neither namespace has a route out, so nothing leaves the machine.

client_ns=bench-client-$$
server_ns=bench-server-$$
# 198.18.0.0/15 is set aside for benchmarks (RFC 2544).
client_address=198.18.0.1
server_address=198.18.0.2
iperf_port=5201
service_port=5202
token=ikAdvudu_ZxNXhNLCD

# The flags that this file reads; the scripts set them.
offload=on
bin=
only=
implementation=
server_args=()
client_args=()

bench=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=
measuring=

fail() {
    printf '%s: %s\n' "${0##*/}" "$1" >&2
    exit "${2:-1}"
}

takes_part() {
    [[ ,$only, == *,$1,* ]]
}

# known_contenders NAME...: fails where another one is asked for.
known_contenders() {
    local asked name
    IFS=, read -ra asked <<<"$only"
    for name in "${asked[@]}"; do
        [[ " $* " == *" $name "* ]] || fail "--only: there is no contender $name, but ${*}" 2
    done
    ((${#asked[@]})) || fail '--only names no contender' 2
}

require() {
    local tool
    for tool; do
        command -v "$tool" >/dev/null || fail "$tool is missing; bench/README.md lists the packages" 2
    done
    ((EUID == 0)) || fail 'network namespaces need root' 2
}

clean_up() {
    local status=$? ns pids try
    trap '' INT TERM HUP
    trap - EXIT
    # The measuring process first: it would start what is ended below.
    [[ -z $measuring ]] || kill "$measuring" 2>/dev/null || true
    for ns in "$client_ns" "$server_ns"; do
        for try in TERM TERM TERM KILL; do
            mapfile -t pids < <(ip netns pids "$ns" 2>/dev/null)
            ((${#pids[@]})) || break
            kill "-$try" "${pids[@]}" 2>/dev/null || true
            sleep 0.5
        done
        # A namespace would outlive its name for as long as its veth or a socket is held.
        ip -n "$ns" link del veth0 2>/dev/null || true
        ip netns del "$ns" 2>/dev/null || true
    done
    [[ -z $work ]] || rm -rf "$work"
    exit "$status"
}

# await SECONDS WHAT LOG PID CONDITION...: fails, and shows the log, when the time is over or the process
# that was to bring the condition about has ended.
await() {
    local deadline=$((SECONDS + $1)) what=$2 log=$3 pid=$4
    shift 4
    until "$@"; do
        if ((SECONDS >= deadline)) || ! kill -0 "$pid" 2>/dev/null; then
            printf '%s: %s\n' "${0##*/}" "$what is not ready" >&2
            tail -n 20 "$log.out" "$log.err" >&2 || true
            return 1
        fi
        sleep 0.05
    done
}

listens() {
    [[ -n $(ip netns exec "$1" ss -Htln "sport = :$2") ]]
}

says() {
    (($(cat "$1.out" "$1.err" | grep -c -- "$2") >= ${3:-1}))
}

# start NAMESPACE LOG COMMAND...: leaves the process in $started.
start() {
    local ns=$1 log=$2
    shift 2
    ip netns exec "$ns" "$@" >"$log.out" 2>"$log.err" </dev/null &
    started=$!
}

create_lab() {
    local ns variable
    work=$(mktemp -d)
    trap clean_up EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    # A shell that debugs tunnel-rs must not change what is measured.
    unset RUST_LOG
    for variable in "${!TUNNEL_RS_@}"; do
        unset "$variable"
    done

    ip netns add "$client_ns"
    ip netns add "$server_ns"
    ip link add name veth0 mtu 1500 netns "$client_ns" type veth peer name veth0 mtu 1500 netns "$server_ns"
    for ns in "$client_ns" "$server_ns"; do
        ip -n "$ns" link set lo up
        # IPv4 alone, so that every contender takes the same path.
        ip -n "$ns" link set veth0 addrgenmode none
        ip -n "$ns" link set veth0 up
        if [[ $offload == off ]]; then
            ip netns exec "$ns" ethtool -K veth0 tso off gso off gro off
        fi
    done
    ip -n "$client_ns" address add "$client_address/30" dev veth0
    ip -n "$server_ns" address add "$server_address/30" dev veth0

    start "$server_ns" "$work/service" python3 "$bench/measure.py" serve "0.0.0.0:$service_port"
    await 10 "the benchmark's service" "$work/service" "$started" listens "$server_ns" "$service_port"
}

# Taken before anything is started, or the header would show the load of the measurement itself.
load_before=$(cut -d' ' -f1-3 /proc/loadavg)

offloads() {
    ip netns exec "$1" ethtool -k veth0 | awk -F': ' '
        /^tcp-segmentation-offload/ { printf "tso %s", $2 }
        /^generic-segmentation-offload/ { printf ", gso %s", $2 }
        /^generic-receive-offload/ { printf ", gro %s", $2 }'
}

mtu() {
    ip -n "$1" -o link show veth0 | sed -E 's/.* mtu ([0-9]+).*/\1/'
}

header() {
    printf '* date: %s\n' "$(date -u '+%Y-%m-%d %H:%M UTC')"
    printf '* kernel: %s\n' "$(uname -srm)"
    printf '* processor: %s, %s cores\n' "$(sed -n 's/^model name[^:]*: //p;T;q' /proc/cpuinfo)" "$(nproc)"
    printf '* load average before the start: %s\n' "$load_before"
    printf '* veth, client: MTU %s, %s\n' "$(mtu "$client_ns")" "$(offloads "$client_ns")"
    printf '* veth, server: MTU %s, %s\n' "$(mtu "$server_ns")" "$(offloads "$server_ns")"
    printf '* iperf3: %s\n' "$(iperf3 --version | head -n 1)"
}

tunnel_version() {
    printf '* tunnel-rs: %s (%s)\n' "$("$bin" --version 2>/dev/null | head -n 1 || true)" "$bin"
}

# start_tunnel SOURCE TARGET...: one server, one client with these forwards; leaves both in $tunnel_pids.
# shellcheck disable=SC2154 # $bin, $server_args and $client_args are the scripts' flags
start_tunnel() {
    local forwards=() count=$(($# / 2)) ticket server
    while (($#)); do
        forwards+=(--source "$1" --target "$2")
        shift 2
    done
    (umask 077 && echo "$token" >"$work/token")

    start "$server_ns" "$work/tunnel-server" "$bin" server --auth-tokens-file "$work/token" \
        --allowed-tcp "$server_address/32" --allowed-udp "$server_address/32" \
        --bind "$server_address:4433" "${server_args[@]}"
    server=$started
    await 60 'tunnel-rs server' "$work/tunnel-server" "$server" \
        says "$work/tunnel-server" '^Waiting for clients to connect'
    ticket=$(sed -n 's/^Ticket: *//p;T;q' "$work/tunnel-server.out")
    [[ -n $ticket ]] || fail 'tunnel-rs server printed no ticket'

    start "$client_ns" "$work/tunnel-client" "$bin" client --ticket "$ticket" \
        --auth-token-file "$work/token" "${forwards[@]}" "${client_args[@]}"
    await 60 'tunnel-rs client' "$work/tunnel-client" "$started" \
        says "$work/tunnel-client" '^Forwarding ' "$count"
    # shellcheck disable=SC2034 # for the script that sources this file
    tunnel_pids=$server,$started
}

ready() {
    [[ -S /run/wireguard/$1.sock ]]
}

# WireGuard, as $implementation (kernel, go or gotatun) has it.

# add_device NAMESPACE DEVICE ADDRESS PORT: makes its key too; appends its process to $pids.
add_device() {
    local ns=$1 device=$2 address=$3 port=$4
    (umask 077 && wg genkey >"$work/$device.key")
    case $implementation in
    kernel) ip -n "$ns" link add "$device" type wireguard ;;
    go)
        # On a kernel with WireGuard of its own wireguard-go only starts when told that this is meant.
        start "$ns" "$work/$device" \
            env WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD=1 wireguard-go -f "$device"
        ;;
    gotatun) start "$ns" "$work/$device" gotatun --foreground --disable-drop-privileges "$device" ;;
    esac
    if [[ $implementation != kernel ]]; then
        await 10 "$implementation" "$work/$device" "$started" ready "$device"
        pids+=("$started")
    fi
    ip netns exec "$ns" wg set "$device" private-key "$work/$device.key" listen-port "$port"
    ip -n "$ns" address add "$address/30" dev "$device"
    ip -n "$ns" link set "$device" mtu 1420 up
}

# add_peer NAMESPACE DEVICE PEER-DEVICE PEER-ADDRESS [WG-ARGUMENT...]
add_peer() {
    local ns=$1 device=$2 peer=$3 address=$4
    shift 4
    ip netns exec "$ns" wg set "$device" peer "$(wg pubkey <"$work/$peer.key")" allowed-ips "$address/32" "$@"
}

echoes() {
    ip netns exec "$client_ns" python3 "$bench/measure.py" first-bytes 1 "$1:$service_port" \
        >"$work/echoes.out" 2>"$work/echoes.err"
}

# connect NAME NET PORT ENDPOINT PIDS: a WireGuard network whose client sends to the endpoint; only the
# client knows one, so that the server answers to wherever packets come from.
connect() {
    local name=$1 net=$2 port=$3 endpoint=$4 all pids=()
    # Control sockets stand in one directory for both namespaces, and for every run of this script.
    local client=bc$net-$$ server=bs$net-$$
    add_device "$server_ns" "$server" "198.18.$net.2" "$port"
    add_device "$client_ns" "$client" "198.18.$net.1" 0
    add_peer "$server_ns" "$server" "$client" "198.18.$net.1"
    add_peer "$client_ns" "$client" "$server" "198.18.$net.2" endpoint "$endpoint" persistent-keepalive 20
    await 30 "$name" "$work/echoes" $$ echoes "198.18.$net.2"
    [[ -z $5 ]] || pids+=("$5")
    all=$(IFS=, && echo "${pids[*]}")
    contender "$name" "198.18.$net.2:$iperf_port" - "198.18.$net.2:$service_port" "${all:--}" -
}

# contender NAME TCP UDP SERVICE PIDS NOTE: `-` stands for none.
contender() {
    local IFS=$'\t'
    printf '%s\n' "$*" >>"$work/contenders"
}

# In the background, because bash runs no trap before a foreground command has ended.
measure() {
    python3 "$bench/measure.py" compare --client "$client_ns" --server "$server_ns" --port "$iperf_port" \
        --contenders "$work/contenders" "$@" &
    measuring=$!
    wait "$measuring"
    measuring=
}
