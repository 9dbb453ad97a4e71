"""The howto's connected client."""
import peer

options = peer.options("host", "port", interface="127.0.0.1")

from twisted.internet import reactor
from twisted.internet.protocol import DatagramProtocol


class Helloer(DatagramProtocol):
    def startProtocol(self):
        peer.listening(self.transport)
        self.transport.connect(options.host, options.port)
        peer.event(f"now we can only send to host {options.host} port {options.port}")
        self.transport.write(b"hello")  # no need for address

    def datagramReceived(self, data, address):
        peer.event(f"received {data!r} from {peer.address(*address)}")

    def connectionRefused(self):
        peer.event("No one listening")

    def send(self, line):
        self.transport.write(line)


helloer = Helloer()
reactor.listenUDP(0, helloer, interface=options.interface)
peer.run(helloer.send)
