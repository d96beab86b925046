"""Forbids the network to every Python process started with this folder on PYTHONPATH, kernels included.

A connection or a name look-up that leaves this machine raises, and is noted in the file LAB_GUARD: whoever
swallows the error is found all the same. Python's own sockets only; a library's C or Rust code is not seen.
"""

import ipaddress
import os
import socket
import traceback

HERE = {"", "localhost", socket.gethostname()}


def check(host):
    name = host.decode() if isinstance(host, bytes) else host or ""
    try:
        local = ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        local = name in HERE
    if not local:
        with open(os.environ["LAB_GUARD"], "a", encoding="utf-8") as log:
            caller = " < ".join(f"{f.filename}:{f.lineno}" for f in reversed(traceback.extract_stack()[-6:-2]))
            log.write(f"{name} from {caller}\n")
        raise ConnectionError(f"the guard forbids a connection to {name}")


def guarded(method):
    def call(self, address, *args):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            check(address[0])
        return method(self, address, *args)
    return call


def looked_up(host, *args, look_up=socket.getaddrinfo, **options):
    if host != "0.0.0.0" and host != "::":  # to listen on
        check(host)
    return look_up(host, *args, **options)


if os.environ.get("LAB_GUARD"):
    socket.getaddrinfo = looked_up
    for method in ("connect", "connect_ex"):
        setattr(socket.socket, method, guarded(getattr(socket.socket, method)))
