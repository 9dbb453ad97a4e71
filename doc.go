/*
Package udp serves UDP protocols: a [Conn] is a socket with one goroutine that
reads from it and hands what arrives to a [Handler]. This is a tour of the
package, in the order in which a program needs it.

# A server

A server is an address and a function. This one sends each datagram back:

	c, err := udp.Listen("127.0.0.1:9999", udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		c.Reply(d, d.Payload)
	}))
	if err != nil {
		return err
	}
	return c.Wait()

[Listen] returns when the socket is open. The function runs in the Conn's own
goroutine. The address is "host:port": an empty host stands for all addresses
of this host, IPv4 and IPv6, and port 0 for one that the system chooses, which
[Conn.LocalAddr] tells. Settings are the fields of a [ListenConfig]:

	lc := udp.ListenConfig{Network: "udp4", Logger: slog.Default()}
	c, err := lc.Listen(ctx, ":9999", h)

A handler with state is a type with the method HandleDatagram. It may have
more methods, which the Conn looks for when it is opened: HandleStart before
the first datagram ([StartHandler]), HandleBatch for all that one read
returned ([BatchHandler]), HandleUndelivered for datagrams that did not arrive
([UndeliveredHandler]), HandleGroups for changes of its groups
([GroupHandler]), and HandleStop as the last call ([StopHandler]). Say so where
the type is declared, and the compiler checks their signatures:

	var _ udp.StopHandler = (*server)(nil)

All calls of one Conn are made one after the other, so a handler that serves
one Conn needs no lock for its state. The methods of a Conn may be called from
any goroutine and from handlers; only [Conn.Wait] and [Conn.Shutdown] may not
be called by handlers, as they would wait for themselves. A handler that blocks
stops its own Conn and no other.

# Payloads are lent

The Payload of a [Datagram] is valid until the handler returns; then the Conn
reads into the same memory again. [Datagram.Clone] makes a copy to keep. A
handler that waits for another goroutine waits for [Conn.Done] too, or Close
would wait for both:

	func (h *queue) HandleDatagram(c *udp.Conn, d udp.Datagram) {
		select {
		case h.work <- d.Clone():
		case <-c.Done():
		}
	}

In a build with the race detector, payloads are overwritten when the handler
has returned: the tests of a program then find a handler that forgot to clone.

# Replying

[Conn.Reply] sends to the address that a datagram came from, from the address
that it was sent to. On a host with several addresses that matters: a client
that asks 192.0.2.7 drops an answer from 192.0.2.8. [Conn.WriteTo] leaves the
choice to the system. Addresses are [netip.AddrPort] values: comparable, keys
of maps, never an IPv4 address in its IPv6 form. To forward a datagram to
somebody else, clear its Local and Interface, which say where it came in.

A datagram of up to 65507 bytes fits into IPv4, 65527 into IPv6; more than
about 1200 is cut into fragments on some paths, and lost on others.

# Many at once

[Conn.Queue] sends when the handler has been given all that one read returned:
a plain handler then sends batches, with as few system calls as the system
allows. [Conn.WriteBatch] sends a slice of datagrams at once, and a
[BatchHandler] is given one. On Linux that is one system call for many
datagrams, in each direction; elsewhere one each, through the same methods.

	func (echo) HandleDatagram(c *udp.Conn, d udp.Datagram) { c.Queue(d) }

# Time

[Conn.AfterFunc] and [Conn.Post] run a function in the goroutine of the Conn,
between datagrams. A protocol that retransmits, times out and answers many
peers so needs no lock, and its timers end with the Conn:

	func (h *client) ask(c *udp.Conn) {
		c.Write(h.question)
		h.retry = c.AfterFunc(h.patience, func() { h.ask(c) })
	}

[Sessions] is a Handler that keeps a Handler for each peer, and ends it when the
peer is silent. [Workers] is a Handler that hands datagrams to several
goroutines, those of one peer always to the same one.

# Connected sockets

[Dial] opens a socket for one peer, and [Conn.Connect] binds an open one to a
peer, at any time. UDP has no connections: this tells the peer nothing, but the
socket then sends to and receives from this address only, and [Conn.Write]
needs none. Connect may be called again, for another peer, or after an address
of this host has changed; [Conn.Disconnect] makes the socket hear everybody
again. The local port stays.

# What did not arrive

A host where nobody listens, or a router without a route, may report it (ICMP):

	func (h *client) HandleUndelivered(c *udp.Conn, u udp.Undelivered) {
		if errors.Is(u.Err, syscall.ECONNREFUSED) {
			log.Print("no one listens at ", u.Addr)
		}
	}

A refusal is an event, not an end: what is written when somebody listens there
again arrives. The report comes after the write that caused it, which has
returned nil by then. Reports are a courtesy: firewalls swallow them, and
anybody can forge one. A protocol that must know needs an answer of its own,
and a timer.

# Multicast

[ListenMulticast] opens a socket that can share its port, and joins groups;
[Conn.Join] and [Conn.Leave] work on every Conn:

	eth0, err := net.InterfaceByName("eth0")
	...
	c, err := udp.ListenMulticast(":8005", h,
		udp.Group{Addr: netip.MustParseAddr("239.255.0.5"), Interface: eth0})

A Conn gets the datagrams of the groups that it has joined and of no others. A
membership belongs to an interface: name it, or let [Conn.JoinAll] join on each
one and follow them as they come and go. A client that pings a group and waits
for answers uses a port of its own, as a shared port shares unicast too.
docs/multicast.md has the rest: senders, routers, sources, and what to look at
when nothing arrives.

# Names

Writing and connecting take addresses, so no write waits for DNS. [Resolve]
makes an address of a name, and Dial and Listen resolve what they are given. An
address changes; a program that runs for long resolves again, and calls
Connect.

# Stopping

[Conn.Close] closes the socket at once and may be called anywhere. A handler
that is under way may still finish; after it only HandleStop is called.
[Conn.Shutdown] is the gentle end: the handler gets what has already arrived,
HandleStop can still write, to say goodbye, and then the socket is closed.
[Conn.Wait] returns when all of that is over and no goroutine is left. A
program that ends on a signal:

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { c.Close() })
	return c.Wait()

# Errors and counters

Errors are *[net.OpError] values, with the operation, the addresses, and the
cause for [errors.Is]: [net.ErrClosed], [os.ErrDeadlineExceeded],
[net.ErrWriteToConnected], [errors.ErrUnsupported], [syscall.EMSGSIZE] and
other numbers of the system. docs/errors.md lists what is returned, what is
reported, and what the Conn survives. A read error never ends a Conn; a panic
in a handler ends the program, unless [ListenConfig].Recover is set.

[Conn.Stats] counts datagrams, bytes and system calls each way, and what was
lost where. A rising Dropped means that the handler is too slow for the load or
ListenConfig.ReadBuffer too small for its bursts: a buffer holds what arrives
while a handler is busy, so size it as rate times the longest pause.

# Sharing a port

With ListenConfig.ReusePort several sockets share a port, and the kernel spreads
peers over them: one Conn for each core, in one process or several. docs/ports.md
tells of that, of a restart that loses nothing, of other network namespaces, of
sockets from systemd, and of options that this package does not have.

# Testing your protocol

A program that takes a *[ListenConfig] can be tested without a socket. [MemNet]
is a network in memory: every address belongs to it, names are what the test
says, and loss, latency, reordering, duplicates and a narrow link are its
fields. In a bubble of [testing/synctest] time is virtual, for timers of a Conn
too: a test of an hour of retransmissions takes milliseconds.

	synctest.Test(t, func(t *testing.T) {
		lc := &udp.ListenConfig{PacketListener: &udp.MemNet{Link: udp.Link{Latency: time.Millisecond, Loss: 0.3, Seed: 1}}}
		server, err := lc.Listen(t.Context(), "10.0.0.1:7", h)
		...
	})

# Security

The source address of a datagram is whatever its sender wrote there. A server
that sends more than it was sent, to an address that has proved nothing, is an
amplifier for attacks on others. docs/security.md says what the package does
about forged packets, and what remains to the protocol.

# Platforms

Linux has all of it. docs/platforms.md has a table of what other systems do, and
which of them were tested. What a system cannot do is [errors.ErrUnsupported]
where a program asked for it, and zero where it is only told.
*/
package udp
