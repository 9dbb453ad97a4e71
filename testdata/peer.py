"""What the programs in this directory share.

Each is one of the programs of Twisted's UDP howto, with its addresses on the
command line. It prints a line for each event. Each line on its standard input
is a datagram to send, for those that send; the end of the input ends it.
"""
import argparse
import sys

# UDP needs no TLS, and loading it takes as long as all the rest of Twisted.
sys.modules["OpenSSL"] = None


def options(*names, **defaults):
    """Parse the command line, and install the reactor that it asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--reactor", choices=["default", "select"], default="default")
    for name in names:
        parser.add_argument(name, type=int if name == "port" else str)
    for name, value in defaults.items():
        parser.add_argument("--" + name, type=type(value), default=value)
    parsed = parser.parse_args()
    if parsed.reactor == "select":
        from twisted.internet import selectreactor

        selectreactor.install()
    return parsed


def event(text):
    print(text, flush=True)


def address(host, port, *ignored):
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listening(transport):
    host = transport.getHost()
    event(f"listening {address(host.host, host.port)}")


def fail(failure):
    """End with the failure's text on standard error."""
    from twisted.internet import reactor

    fail.message = failure.getErrorMessage()
    reactor.callWhenRunning(reactor.stop)


fail.message = None


def run(send=None):
    """Run the reactor until standard input ends; send takes its lines."""
    from twisted.internet import reactor, stdio
    from twisted.protocols.basic import LineOnlyReceiver

    class Input(LineOnlyReceiver):
        delimiter = b"\n"

        def lineReceived(self, line):
            if send is not None:
                send(line)

        def connectionLost(self, reason):
            if reactor.running:
                reactor.stop()

    stdio.StandardIO(Input())
    reactor.run()
    sys.exit(fail.message)
