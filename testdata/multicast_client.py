"""The howto's multicast client, on a port of its own unless told otherwise."""
import peer

options = peer.options("group", "port", interface="127.0.0.1", local=0)

from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.protocol import DatagramProtocol


class MulticastPingClient(DatagramProtocol):
    def startProtocol(self):
        gatherResults(
            [
                self.transport.setOutgoingInterface(options.interface),
                # Join the multicast address, so we can receive replies:
                self.transport.joinGroup(options.group, options.interface),
            ],
            consumeErrors=True,
        ).addCallbacks(self.joined, peer.fail)

    def joined(self, ignored):
        peer.event(f"joined {options.group}:{self.transport.getHost().port}")
        # All listeners on the multicast address will receive this message:
        self.send(b"Client: Ping")

    def datagramReceived(self, datagram, address):
        peer.event(f"Datagram {datagram!r} received from {peer.address(*address)}")

    def send(self, line):
        self.transport.write(line, (options.group, options.port))


client = MulticastPingClient()
reactor.listenMulticast(options.local, client, listenMultiple=True)
peer.run(client.send)
