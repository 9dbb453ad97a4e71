"""The howto's resolver. It ends by itself."""
import peer

options = peer.options("name")

from twisted.internet import reactor


def gotIP(ip):
    peer.event(f"IP of {options.name!r} is {ip}")
    reactor.stop()


reactor.callWhenRunning(
    lambda: reactor.resolve(options.name).addCallback(gotIP).addErrback(peer.fail)
)
peer.run()
