"""An echo server in Python, to compare with.

usage: peer.py asyncio|uvloop|twisted echo PORT

The protocol with the program that starts it is that of serve.go.
"""
import asyncio
import os
import socket
import sys
import threading

BUFFER = 4 << 20


def control():
    for _ in sys.stdin:
        print("0 0", flush=True)
    os._exit(0)


def bound():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    s.bind(("127.0.0.1", 0))
    s.setblocking(False)
    return s


def ready(s):
    threading.Thread(target=control, daemon=True).start()
    print(s.getsockname()[1], flush=True)


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.transport.sendto(data, addr)


async def serve():
    s = bound()
    await asyncio.get_running_loop().create_datagram_endpoint(Echo, sock=s)
    ready(s)
    await asyncio.Event().wait()


def serve_twisted():
    from twisted.internet import protocol, reactor

    class Echo(protocol.DatagramProtocol):
        def datagramReceived(self, data, addr):
            self.transport.write(data, addr)

    s = bound()
    reactor.adoptDatagramPort(s.fileno(), socket.AF_INET, Echo())
    ready(s)
    reactor.run()


kind = sys.argv[1]
if kind == "twisted":
    serve_twisted()
else:
    if kind == "uvloop":
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(serve())
