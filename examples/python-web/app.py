"""A web application whose own numbers are KPIs, a row a second: app.py FILE PORT"""

import collections
import math
import pathlib
import socketserver
import sys
import threading
import time
from wsgiref import simple_server


class Kpis:
    """Wraps any WSGI application and counts what it does. Several processes need a file each."""

    def __init__(self, application):
        self.application = application
        self.lock = threading.Lock()
        self.requests = self.errors = 0
        self.latencies = collections.deque(maxlen=10_000)  # milliseconds, since the last row
        self.users = collections.OrderedDict()  # who came, and when; the oldest first

    def __call__(self, environ, start_response):
        begin, statuses = time.monotonic(), ["500"]

        def started(status, *rest):
            statuses[0] = status
            return start_response(status, *rest)

        try:
            return self.application(environ, started)
        finally:
            self.served(environ.get("REMOTE_ADDR"), statuses[0], time.monotonic() - begin)

    def served(self, user, status, seconds):
        """A request costs this and nothing else: no I/O is done under the lock."""
        with self.lock:
            self.requests += 1
            self.errors += status.startswith("5")
            self.latencies.append(1000 * seconds)
            self.users[user] = time.monotonic()
            self.users.move_to_end(user)
            if len(self.users) > 10_000:
                self.users.popitem(last=False)

    def row(self):
        """What to store: totals since the start, latencies since the last row, users of the last minute."""
        with self.lock:
            latencies, self.latencies = self.latencies, collections.deque(maxlen=10_000)
            while self.users and next(iter(self.users.values())) < time.monotonic() - 60:
                self.users.popitem(last=False)
            requests, errors, users = self.requests, self.errors, len(self.users)
        latencies = sorted(latencies)
        p50, p99 = percentile(latencies, 0.5), percentile(latencies, 0.99)
        return f"requests_total,errors_total,latency_p50_ms,latency_p99_ms,users\n{requests},{errors},{p50},{p99},{users}\n"


def percentile(values, share):
    """By nearest rank; an empty field, which is no value, where nothing was served."""
    return f"{values[math.ceil(share * len(values)) - 1]:.3f}" if values else ""


def export(kpis, path):
    """Runs beside the application. Without a partition it goes on, and says so once; when it is back, likewise."""
    trouble = None
    while True:
        time.sleep(1)
        before, row = trouble, kpis.row()
        try:
            pathlib.Path(path).write_text(row, encoding="utf-8")
            trouble = None
        except OSError as error:
            trouble = error.strerror
        if trouble != before:
            print(f"{path}: {'not stored: ' + trouble if trouble else 'stored'}", file=sys.stderr, flush=True)


def application(environ, start_response):
    """What is measured."""
    if environ["PATH_INFO"] == "/broken":
        raise RuntimeError("a request that fails")
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello\n"]


class Server(socketserver.ThreadingMixIn, simple_server.WSGIServer):
    daemon_threads = True


if __name__ == "__main__":
    kpis = Kpis(application)
    threading.Thread(target=export, args=(kpis, sys.argv[1]), daemon=True).start()
    simple_server.make_server("127.0.0.1", int(sys.argv[2]), kpis, Server).serve_forever()
