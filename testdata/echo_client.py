"""A client of the howto's echo server, whose socket is not connected."""
import peer

options = peer.options("host", "port", interface="127.0.0.1")

from twisted.internet import reactor
from twisted.internet.protocol import DatagramProtocol


class Client(DatagramProtocol):
    def datagramReceived(self, data, address):
        peer.event(f"received {data!r} from {peer.address(*address)}")

    def send(self, line):
        self.transport.write(line, (options.host, options.port))


client = Client()
peer.listening(
    reactor.listenUDP(
        0, client, interface=options.interface, maxPacketSize=65535
    )
)
peer.run(client.send)
