#!/usr/bin/env python3
"""The measuring half of bench/run, bench/vpn and bench/wireguard; see bench/README.md."""

import argparse
import ctypes
import json
import os
import re
import signal
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
CPU_TIMES = slice(11, 15)  # utime, stime, cutime, cstime in /proc/PID/stat, counted behind the name
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)


class Failure(Exception):
    """One measurement that gave no figure."""


# Processes


def die_with_parent():
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def spawn(command, **options):
    return subprocess.Popen(command, preexec_fn=die_with_parent, **options)


def stop(processes):
    """Ends them all: asked first, killed if that takes longer than five seconds."""
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + 5
    for process in processes:
        try:
            process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(ready, seconds, what):
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise Failure(f"{what}: not within {seconds} s")
        time.sleep(0.02)


def listens(port, namespace=None):
    prefix = ["ip", "netns", "exec", namespace] if namespace else []
    query = [*prefix, "ss", "-Htln", f"sport = :{port}"]
    return bool(subprocess.run(query, capture_output=True, check=False).stdout)


def tree_cpu_seconds(roots):
    """User and system time of these processes and of their descendants, ended ones included."""
    parents, times = {}, {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            stat = Path("/proc", entry, "stat").read_text()
        except OSError:  # it ended in between
            continue
        fields = stat.rpartition(")")[2].split()
        parents[int(entry)] = int(fields[1])
        times[int(entry)] = sum(map(int, fields[CPU_TIMES]))
    gone = set(roots) - set(times)
    if gone:
        raise Failure(f"process {', '.join(map(str, sorted(gone)))} has ended")
    tree, level = set(), set(roots)
    while level:
        tree |= level
        level = {pid for pid, parent in parents.items() if parent in level} - tree
    return sum(times[pid] for pid in tree) / TICKS_PER_SECOND


def machine_cpu_seconds():
    user, nice, system, _idle, _iowait, irq, softirq = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]
    )
    return (user + nice + system + irq + softirq) / TICKS_PER_SECOND


# The service in the server's namespace, and its clients. The first byte of a connection says what is
# wanted: an echo of that byte, or a transfer to the server or from it.

ECHO, SEND, RECEIVE = b"e", b"s", b"r"
COUNT = struct.Struct("!Q")
CHUNK = bytes(256 * 1024)


def connect(address):
    connection = socket.create_connection(address, timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def send_bytes(connection, count):
    chunk = memoryview(CHUNK)
    while count:
        part = min(count, len(chunk))
        connection.sendall(chunk[:part])
        count -= part
    connection.shutdown(socket.SHUT_WR)


def count_bytes(connection):
    buffer = bytearray(len(CHUNK))
    count = 0
    while part := connection.recv_into(buffer):
        count += part
    return count


def receive_count(connection):
    count = connection.recv(COUNT.size, socket.MSG_WAITALL)
    if len(count) != COUNT.size:
        raise Failure("the connection ended too early")
    return COUNT.unpack(count)[0]


def serve_connection(connection):
    with connection:
        try:
            wanted = connection.recv(1)
            if wanted == ECHO:
                connection.sendall(wanted)
                count_bytes(connection)
            elif wanted == SEND:
                connection.sendall(COUNT.pack(count_bytes(connection)))
            elif wanted == RECEIVE:
                send_bytes(connection, receive_count(connection))
        except (OSError, Failure) as error:
            print(f"service: {error}", file=sys.stderr)


def serve(address):
    with socket.create_server(address, backlog=1024) as listener:
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(
                target=serve_connection, args=[connection], daemon=True
            ).start()


def first_byte(address):
    """Seconds from connect() to the echo of the first byte."""
    started = time.perf_counter()
    with connect(address) as connection:
        connection.sendall(ECHO)
        if connection.recv(1) != ECHO:
            raise Failure("the connection ended without an echo")
        return time.perf_counter() - started


def first_bytes(addresses, count):
    """That of so many connections to each address, in turns; for an address that fails, why."""
    outcomes = [[] for _ in addresses]
    for attempt in range(count + 1):
        for place, address in enumerate(addresses):
            if isinstance(outcomes[place], str):
                continue
            try:
                elapsed = first_byte(address)
            except (OSError, Failure) as error:
                outcomes[place] = str(error)
                continue
            if attempt:  # the first one also pays for caches that are cold
                outcomes[place].append(elapsed)
            time.sleep(0.01)  # the end of one connection is not part of the next
    if all(isinstance(outcome, str) for outcome in outcomes):
        raise Failure(outcomes[0])
    return outcomes


def transfer_stream(address, reverse, count):
    """Bytes that arrived; it returns when the last one has."""
    with connect(address) as connection:
        if reverse:
            connection.sendall(RECEIVE + COUNT.pack(count))
            return count_bytes(connection)
        connection.sendall(SEND)
        send_bytes(connection, count)
        return receive_count(connection)


def transfer(address, reverse, streams, count):
    """Bytes that arrived, and what the whole machine spent on it."""
    machine = machine_cpu_seconds()
    with ThreadPoolExecutor(streams) as pool:
        parts = [
            pool.submit(transfer_stream, address, reverse, count // streams)
            for _ in range(streams)
        ]
        arrived = sum(part.result() for part in parts)
    return arrived, machine_cpu_seconds() - machine


# Contenders and figures


@dataclass
class Contender:
    """One way from the client's namespace to the services in the server's."""

    name: str
    tcp: str  # where iperf3 connects to, ADDRESS:PORT; "-" where there is no such way
    udp: str
    service: str
    pids: list
    note: str  # why there are no figures at all

    @classmethod
    def parse(cls, line):
        name, tcp, udp, service, pids, note = line.rstrip("\n").split("\t")
        pids = [] if pids == "-" else [int(pid) for pid in pids.split(",")]
        return cls(name, tcp, udp, service, pids, "" if note == "-" else note)


@dataclass(frozen=True)
class Figure:
    label: str
    unit: str
    group: int  # its place in the table


@dataclass
class Lab:
    client: str
    server: str
    port: int
    timeout: int

    def in_client(self, command):
        command = ["ip", "netns", "exec", self.client, *command]
        try:
            return subprocess.run(
                command,
                capture_output=True,
                check=False,
                text=True,
                timeout=self.timeout,
                preexec_fn=die_with_parent,
            )
        except subprocess.TimeoutExpired:
            raise Failure(f"not done after {self.timeout} s") from None

    def client_of_service(self, *arguments):
        result = self.in_client([sys.executable, __file__, *arguments])
        if result.returncode:
            raise Failure(result.stderr.strip().rpartition("\n")[2])
        return json.loads(result.stdout)

    def iperf(self, target, *options):
        """What iperf3 reports at the end of one test."""
        address, port = host_and_port(target)
        # A server for each test: one that a broken test left waiting would refuse the next.
        server = spawn(
            ["ip", "netns", "exec", self.server]
            + ["iperf3", "-s", "-1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(
                lambda: listens(self.port, self.server), 5, "iperf3 -s listening"
            )
            result = self.in_client(
                ["iperf3", "-J", "-c", address, "-p", str(port), *options]
            )
            try:
                server.wait(2)
            except subprocess.TimeoutExpired:
                pass
        finally:
            server.kill()
            server.wait()
            time.sleep(0.3)  # a tunnel empties its buffers, which must not fall into the next test
        try:
            report = json.loads(result.stdout)
        except ValueError:
            raise Failure(result.stderr.strip() or "iperf3 gave no report") from None
        if "error" in report:
            raise Failure(report["error"])
        return report["end"]


class Measurement:
    """A kind of test; one run of it gives a value for each of its figures."""

    def __init__(self, figures):
        self.figures = figures

    def applies(self, contender):
        raise NotImplementedError

    def prepare(self, lab, contenders):
        """Before the run of each of them."""

    def run(self, lab, contender):
        raise NotImplementedError


def tcp_name(streams, reverse):
    count = "1 stream" if streams == 1 else f"{streams} streams"
    return f"{count}, {'server → client' if reverse else 'client → server'}"


class TcpThroughput(Measurement):
    def __init__(self, streams, reverse, size):
        label = f"TCP, {tcp_name(streams, reverse)}"
        super().__init__([Figure(label, "Gbit/s", 0)])
        self.options = ["-n", size, "-P", str(streams), *(["-R"] if reverse else [])]

    def applies(self, contender):
        return contender.tcp != "-"

    def run(self, lab, contender):
        received = lab.iperf(contender.tcp, *self.options)["sum_received"]
        return [received["bits_per_second"] / 1e9]


class TransferCpu(Measurement):
    """CPU of a transfer whose last byte has arrived.

    iperf3 ends its tests when enough was sent: what a tunnel has spent by then is for an unknown number
    of bytes, many megabytes away from those that iperf3 counts.
    """

    def __init__(self, streams, reverse, size):
        name = tcp_name(streams, reverse)
        super().__init__(
            [
                Figure(f"CPU of both tunnel ends, {name}", "s/GB", 1),
                Figure(f"CPU of the whole machine, {name}", "s/GB", 2),
            ]
        )
        self.size = size // streams * streams
        self.arguments = ["reverse" if reverse else "forward", str(streams)]

    def applies(self, contender):
        return contender.service != "-"

    def run(self, lab, contender):
        tunnel = tree_cpu_seconds(contender.pids)
        arrived, machine = lab.client_of_service(
            "transfer", contender.service, *self.arguments, str(self.size)
        )
        tunnel = tree_cpu_seconds(contender.pids) - tunnel
        if arrived != self.size:
            raise Failure(f"{arrived} of {self.size} bytes arrived")
        gigabytes = arrived / 1e9
        return [tunnel / gigabytes if contender.pids else None, machine / gigabytes]


class FirstByte(Measurement):
    def __init__(self, connects):
        label = f"first byte of a new TCP connection, median of {connects}"
        super().__init__([Figure(label, "ms", 3)])
        self.connects = connects
        self.outcomes = {}

    def applies(self, contender):
        return contender.service != "-"

    def prepare(self, lab, contenders):
        # They take turns connection by connection: in the time that 50 take, a shared machine may have become another one.
        services = [contender.service for contender in contenders]
        try:
            outcomes = lab.client_of_service("first-bytes", str(self.connects), *services)
        except Failure as failure:
            outcomes = [str(failure)] * len(services)
        self.outcomes = dict(zip(services, outcomes))

    def run(self, lab, contender):
        outcome = self.outcomes[contender.service]
        if isinstance(outcome, str):
            raise Failure(outcome)
        return [statistics.median(outcome) * 1e3]


class RoundTrip(Measurement):
    """Of ICMP echoes on an idle network, one after another: at intervals, or each upon the one before."""

    def __init__(self, count, when, flags):
        super().__init__([Figure(f"round trip, {when}, median of {count}", "ms", 3)])
        self.command = ["ping", "-n", "-c", str(count), *flags]

    def applies(self, contender):
        return contender.service != "-"

    def run(self, lab, contender):
        target = contender.service.rpartition(":")[0]
        output = lab.in_client([*self.command, target]).stdout
        times = [float(time) for time in re.findall(r"time=([0-9.]+) ms", output)]
        if not times:
            raise Failure("no echo came back")
        return [statistics.median(times)]


class UdpThroughput(Measurement):
    def __init__(self, size, rate, reverse, seconds):
        way = "server → client" if reverse else "client → server"
        name = f"{size} bytes at {rate}bit/s, {way}"
        super().__init__(
            [
                Figure(f"UDP received, {name}", "Mbit/s", 4),
                Figure(f"UDP lost, {name}", "%", 4),
            ]
        )
        self.options = ["-u", "-l", size, "-b", rate, "-t", seconds]
        self.options += ["-R"] if reverse else []

    def applies(self, contender):
        return contender.udp != "-"

    def run(self, lab, contender):
        end = lab.iperf(contender.udp, *self.options)
        received = end["sum_received"]
        return [received["bits_per_second"] / 1e6, end["sum"]["lost_percent"]]


def measure(lab, measurements, contenders, runs):
    """Values and failures by figure and contender's name."""
    samples, failures = {}, {}
    for run in range(1, runs + 1):
        for measurement in measurements:
            taking_part = [
                contender
                for contender in contenders
                if not contender.note and measurement.applies(contender)
            ]
            measurement.prepare(lab, taking_part)
            # Contenders take turns within a figure, so that what drifts on the machine hits them alike.
            for contender in taking_part:
                progress = (
                    f"run {run}/{runs}: {contender.name}: {measurement.figures[0].label}"
                )
                try:
                    values = measurement.run(lab, contender)
                except Failure as failure:
                    print(f"{progress}: failed: {failure}", file=sys.stderr)
                    for figure in measurement.figures:
                        key = (figure, contender.name)
                        failures.setdefault(key, []).append(str(failure))
                    continue
                for figure, value in zip(measurement.figures, values):
                    if value is not None:
                        samples.setdefault((figure, contender.name), []).append(value)
                shown = ", ".join(
                    f"{number(value)} {figure.unit}"
                    for figure, value in zip(measurement.figures, values)
                    if value is not None
                )
                print(f"{progress}: {shown}", file=sys.stderr)
    return samples, failures


# Tables


def number(value):
    """Three significant digits, never in exponents."""
    if value == 0:
        return "0"
    for limit, digits in ((99.95, 0), (9.995, 1), (0.9995, 2)):
        if abs(value) >= limit:
            return f"{value:.{digits}f}"
    return f"{value:.3f}"


def table(header, rows):
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(values, failed):
    if not values:
        return "failed" if failed else "–"
    text = number(statistics.median(values))
    if len(values) > 1:
        text += f" ({number(min(values))}–{number(max(values))})"
    return f"{text} [{len(failed)} failed]" if failed else text


def ratio(values, baseline):
    if not values or not baseline or not statistics.median(baseline):
        return "–"
    return number(statistics.median(values) / statistics.median(baseline))


def comparison(measurements, contenders, baseline, samples, failures):
    names = [contender.name for contender in contenders]
    compared = [
        contender.name
        for contender in contenders
        if contender.name != baseline and not contender.note and baseline in names
    ]
    header = ["median (min–max)"]
    for contender in contenders:
        note = f": {contender.note}" if contender.note else ""
        header.append(contender.name + note)
    header += [f"{name} ÷ {baseline}" for name in compared]
    figures = [figure for measurement in measurements for figure in measurement.figures]
    rows = []
    for figure in sorted(figures, key=lambda figure: figure.group):
        row = [f"{figure.label}, {figure.unit}"]
        for name in names:
            row.append(cell(samples.get((figure, name)), failures.get((figure, name))))
        for name in compared:
            pair = samples.get((figure, name)), samples.get((figure, baseline))
            row.append(ratio(*pair))
        rows.append(row)
    return table(header, rows)


# Command line


def compare(options):
    contenders = [
        Contender.parse(line) for line in Path(options.contenders).read_text().splitlines()
    ]
    measurements = [
        TcpThroughput(streams, reverse, options.bytes)
        for streams in (1, options.streams)
        for reverse in (False, True)
    ]
    measurements += [
        TransferCpu(streams, reverse, options.transfer)
        for streams in (1, options.streams)
        for reverse in (False, True)
    ]
    measurements.append(FirstByte(options.connects))
    if options.pings:
        measurements.append(RoundTrip(options.pings, "every 10 ms", ["-i", "0.01"]))
        measurements.append(RoundTrip(10 * options.pings, "without a pause", ["-A"]))
    measurements += [
        UdpThroughput(size, rate, reverse, options.udp_seconds)
        for size in filter(None, options.udp_sizes.split(","))
        for rate in filter(None, options.udp_rates.split(","))
        for reverse in (False, True)
    ]
    lab = Lab(options.client, options.server, options.port, options.timeout)
    samples, failures = measure(lab, measurements, contenders, options.runs)
    print(comparison(measurements, contenders, options.baseline, samples, failures))
    if options.json:
        everything = [
            {
                "figure": figure.label,
                "unit": figure.unit,
                "contender": name,
                "samples": samples.get((figure, name), []),
                "failures": failures.get((figure, name), []),
            }
            for figure, name in sorted(
                samples.keys() | failures.keys(),
                key=lambda key: (key[0].group, key[0].label, key[1]),
            )
        ]
        Path(options.json).write_text(json.dumps(everything, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("compare", help="measure contenders, print a table")
    command.add_argument("--client", required=True, help="the client's namespace")
    command.add_argument("--server", required=True, help="the server's namespace")
    command.add_argument("--port", type=int, required=True, help="of iperf3 -s")
    command.add_argument("--contenders", required=True, help="file, one a line")
    command.add_argument("--baseline", required=True, help="contender of the ratios")
    command.add_argument("--runs", type=int, default=5)
    command.add_argument("--bytes", default="2G")
    command.add_argument("--transfer", type=int, default=10**9)
    command.add_argument("--streams", type=int, default=8)
    command.add_argument("--connects", type=int, default=50)
    command.add_argument("--pings", type=int, default=0)
    command.add_argument("--udp-rates", default="")
    command.add_argument("--udp-sizes", default="")
    command.add_argument("--udp-seconds", default="2")
    command.add_argument("--timeout", type=int, default=180)
    command.add_argument("--json")
    command.set_defaults(run=compare)

    command = commands.add_parser("serve", help="run the service")
    command.add_argument("address", type=host_and_port, help="ADDRESS:PORT")
    command.set_defaults(run=lambda options: serve(options.address))

    command = commands.add_parser("first-bytes", help="time connections to the service")
    command.add_argument("count", type=int)
    command.add_argument("addresses", type=host_and_port, nargs="+", help="ADDRESS:PORT")
    command.set_defaults(
        run=lambda options: print(
            json.dumps(first_bytes(options.addresses, options.count))
        )
    )

    command = commands.add_parser("transfer", help="move bytes to or from the service")
    command.add_argument("address", type=host_and_port, help="ADDRESS:PORT")
    command.add_argument("direction", choices=["forward", "reverse"])
    command.add_argument("streams", type=int)
    command.add_argument("bytes", type=int)
    command.set_defaults(
        run=lambda options: print(
            json.dumps(
                transfer(
                    options.address,
                    options.direction == "reverse",
                    options.streams,
                    options.bytes,
                )
            )
        )
    )

    options = parser.parse_args()
    options.run(options)


def host_and_port(address):
    host, port = address.rsplit(":", 1)
    return host, int(port)


if __name__ == "__main__":
    main()
