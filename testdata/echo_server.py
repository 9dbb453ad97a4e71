"""The howto's echo server."""
import peer

options = peer.options(interface="127.0.0.1", port=0)

from twisted.internet import reactor
from twisted.internet.protocol import DatagramProtocol


class Echo(DatagramProtocol):
    def datagramReceived(self, data, address):
        peer.event(f"received {data!r} from {peer.address(*address)}")
        self.transport.write(data, address)


peer.listening(
    reactor.listenUDP(
        options.port, Echo(), interface=options.interface, maxPacketSize=65535
    )
)
peer.run()
