"""The howto's multicast server."""
import peer

options = peer.options("group", interface="127.0.0.1", port=0)

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.protocol import DatagramProtocol


class MulticastPingPong(DatagramProtocol):
    def startProtocol(self):
        # Set the TTL>1 so multicast will cross router hops:
        self.transport.setTTL(5)
        gatherResults(
            [
                self.transport.setOutgoingInterface(options.interface),
                # Join a specific multicast group:
                self.transport.joinGroup(options.group, options.interface),
            ],
            consumeErrors=True,
        ).addCallbacks(self.joined, peer.fail)

    def joined(self, ignored):
        peer.event(f"joined {options.group}:{self.transport.getHost().port}")

    def datagramReceived(self, datagram, address):
        peer.event(f"Datagram {datagram!r} received from {peer.address(*address)}")
        if datagram == b"Client: Ping":
            # Rather than replying to the group multicast address, we send the
            # reply directly (unicast) to the originating port:
            self.transport.write(b"Server: Pong", address)


# listenMultiple=True, so that server and client can share a port on one host:
reactor.listenMulticast(options.port, MulticastPingPong(), listenMultiple=True)
peer.run()
