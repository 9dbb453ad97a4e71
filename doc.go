/*
Package udp serves UDP protocols: a [Conn] is a socket with one goroutine that
reads from it and hands what arrives to a [Handler]. What follows is a tour of
the package, in the order in which a program needs it.

# A server

A server is an address and a function. This one sends each datagram back:

	c, err := udp.Listen("127.0.0.1:9999", udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		c.Reply(d, d.Payload)
	}))
	if err != nil {
		return err
	}
	return c.Wait()

[Listen] returns as soon as the socket is open; the function runs in the
Conn's own goroutine from then on. The address is "host:port". An empty host
stands for all addresses of this host, IPv4 and IPv6, and port 0 for one that
the system chooses: [Conn.LocalAddr] tells which. Settings are the fields of a
[ListenConfig], whose methods do what the functions of the package do:

	lc := udp.ListenConfig{Network: "udp4", Logger: slog.Default()}
	c, err := lc.Listen(ctx, ":9999", h)

A handler with state is a type with the method HandleDatagram. It may have
more methods, which the Conn looks for once, when it is opened:

  - HandleStart, before the first datagram; its error fails Listen ([StartHandler])
  - HandleBatch, all that one read returned, instead of HandleDatagram ([BatchHandler])
  - HandleUndelivered, the network says that a datagram did not arrive ([UndeliveredHandler])
  - HandleStop, the last call, exactly once ([StopHandler])

All calls of one Conn are made one after the other, so a handler that serves
one Conn needs no lock for what only it uses. Methods of a Conn may be called
from any goroutine, and from handlers, but for [Conn.Wait] and
[Conn.Shutdown], which would wait for the handler that calls them. A handler
that blocks stops its own Conn: hand long work to another goroutine.

# Payloads are lent

The Payload of a [Datagram] is valid until the handler returns; then the Conn
reads the next datagrams into the same memory. [Datagram.Clone] makes a copy to
keep:

	func (h *queue) HandleDatagram(c *udp.Conn, d udp.Datagram) {
		h.work <- d.Clone()
	}

The slice that HandleBatch is given is lent alike. In a build with the race
detector all of it is overwritten when the handler has returned, so that the
tests of a program find a handler which forgot to clone.

# Replying

[Conn.Reply] sends to the address that a datagram came from, and from the
address that it was sent to. On a host with several addresses that matters: a
client that asks 192.0.2.7 drops an answer from 192.0.2.8, and so does every
firewall between them. Where the datagram was sent to a group or a broadcast
address, the answer leaves from the interface's own address.

[Conn.WriteTo] leaves the choice to the system. Addresses are [netip.AddrPort]
values: comparable, usable as keys of a map, and never an IPv4 address in its
IPv6 form (::ffff:192.0.2.7), also on a socket for both. A datagram of up to
65507 bytes fits into IPv4 (65527 into IPv6), but more than about 1200 is cut
into fragments on many paths, and lost if one of them is.

# Connected sockets

[Dial] opens a socket that is connected to one peer; [Conn.Connect] connects
one that is open, at any time. UDP has no connections, so this says nothing to
the peer: it tells the system that this socket sends to and receives from one
address only. [Conn.Write] then needs no address, and what others send is not
delivered. Connect may be called again, for another peer, and [Conn.Disconnect] makes the
socket hear everybody again; the local port stays through all of it. Once
Connect has returned, nothing from anyone else is delivered, datagrams that
had arrived before included.

# What did not arrive

Where nobody listens, or no route leads, a host or a router on the way may
report it (ICMP), and HandleUndelivered is told:

	func (h *client) HandleUndelivered(c *udp.Conn, u udp.Undelivered) {
		if errors.Is(u.Err, syscall.ECONNREFUSED) {
			log.Print("no one listens at ", u.Addr)
		}
	}

A refusal is an event, not an end. The socket goes on working, and a datagram
that is written when somebody listens there again arrives. The report comes
after the write that caused it, which has returned nil by then: a write says
that a datagram was sent, never that it arrived. On Linux every Conn with such
a handler is told, with the address that the datagram was for, who reported it,
and, where a datagram was too long for the path, how long one may be
([Undelivered]). Elsewhere only a connected Conn is.

On Linux such a Conn also hears of failures that may pass, as a TTL that
expired; a socket that does not ask is not told. The MTU counts the headers of
IP and UDP: 28 bytes for IPv4, 48 for IPv6. Reports wait in the socket's
receive buffer, and 1024 of them in the Conn: what does not fit while a handler
blocks is lost to the handler.

Reports are a courtesy. Firewalls swallow them, hosts limit their rate, and
anybody can forge one. A protocol that must know needs an answer of its own,
and a timeout.

# Batches

On Linux, one system call reads as many datagrams as wait, and one writes as
many as it is given. Reading does so by itself; a handler with HandleBatch
gets all that one read returned, and [Conn.WriteBatch] sends many datagrams,
of any mix of sizes and peers, with as few calls as possible:

	func (echo) HandleBatch(c *udp.Conn, ds []udp.Datagram) {
		c.WriteBatch(ds) // each to where it came from
	}

Datagrams to one peer keep their order; those to different peers may overtake
each other. One that cannot be sent costs only itself: WriteBatch sends the
others, and returns how many it sent and why the first failed that did. On
other systems each datagram is a call, through the same methods.

# Multicast

A datagram to a group (224.0.0.0/4, ff00::/8) reaches every socket that has
joined it. Sending needs no membership. [ListenMulticast] opens a socket that
can share its port with others, and joins:

	eth0, err := net.InterfaceByName("eth0")
	...
	c, err := udp.ListenMulticast(":8005", h,
		udp.Group{Addr: netip.MustParseAddr("239.255.0.5"), Interface: eth0})

[Conn.Join] and [Conn.Leave] work on every Conn, at any time. A Conn gets the
datagrams of the groups that it has joined and of no others, whatever other
sockets of the host have joined. What makes multicast hard is not the API:

Which interface. A membership belongs to an interface, not to a host. With a
nil Interface the system looks up its routing table, which is right only by
luck on a host with a VPN, a container bridge or two network cards. Name the
interface, join on each one that counts, or let [Conn.JoinAll] do that: it follows
interfaces as they come and go, and passes over Linux's loopback. Sending has the same question:
[Conn.SetMulticastInterface] answers it for the socket, Datagram.Interface for
one datagram of a WriteBatch, and a zone (ff02::fb%eth0) within the address.

Which port to bind. The port that the group's senders send to, with no host:
":8005". On Linux and BSD a socket that is bound to one of the host's own
addresses gets no multicast at all. Off Linux, a socket for both families
cannot join IPv4 groups: ListenMulticast opens one for IPv4 alone where all
its groups are, and a program that calls Join opens its Conn with "udp4".

Why a shared port shares unicast. All sockets on a port get a group's
datagrams, each its own copy. A datagram to the host's own address goes to one
of them only: with the address reuse of ListenMulticast, on Linux, to the one
that was bound last. So a client that pings a group and waits for an answer
uses a port of its own (Listen with port 0), and the server replies to that.

How far. The TTL (hop limit) of multicast is 1 unless
[Conn.SetMulticastTTL] says otherwise: it stays on the local network. With more
it crosses routers, if they route multicast, which few do. Groups in
224.0.0.0/24 and ff02::/16 never leave the link.

Who hears itself. Multicast loopback is on: other sockets of this host, and
this one if it is a member, get a copy of what it sends.
[Conn.SetMulticastLoopback] turns that off; on Linux and macOS the sender's
setting counts, on Windows the receiver's. Over the loopback interface it has
no effect on Linux.

Source-specific groups. With [Group] Source set, only what that host sends is
delivered (RFC 4607). 232.0.0.0/8 and ff3x::/32 are set aside for that: a
membership for any source in them is one that routers may ignore.
[Conn.Block] is the opposite, and keeps one source out of a group that was
joined for any.

What is limited. A second join of a group on the same interface is an error,
and so is a join past the system's limit (on Linux 20 for a socket,
net.ipv4.igmp_max_memberships). An interface that goes away takes its
memberships with it; one that comes back under the same name is another
interface, and needs a Join of its own. JoinAll sees to that. Where an IPv6
group is joined on several interfaces for different sources, Linux keeps out on
all of them what the membership made last does.

Why nothing arrives. Firewalls drop multicast first: allow the group's port
for UDP, and IGMP (protocol 2) or MLD (within ICMPv6). A switch that snoops
IGMP stops forwarding after some minutes where no router or switch asks for
memberships ("querier"). Wireless networks send multicast slowly and lose much
of it. On Linux, /proc/net/igmp and /proc/net/igmp6 list what the kernel has
joined, and rp_filter drops datagrams whose source is not reached by the
interface that they came by. Anyone who can reach the group can send to it.

# Names

Writing and connecting take addresses, so no write can wait for DNS. [Resolve]
makes an address of a name, for as long as its context allows, and Dial
resolves what it is given:

	addr, err := udp.Resolve(ctx, "udp", "time.example.com:ntp")

The network "udp" prefers IPv4 where a name has both, "udp4" and "udp6" ask
for one family. An address changes; a program that runs for long resolves
again, and calls Connect.

# Stopping

[Conn.Close] closes the socket at once and may be called anywhere, in a
handler too. A handler that is under way may still finish; after it, only
HandleStop is called. [Conn.Shutdown] is the gentle end: handlers get what has
already arrived (and under a flood no more than that), HandleStop can still
write, to say goodbye, and then the socket is closed. [Conn.Wait] returns when all of that is over and no
goroutine is left: nil after Close and Shutdown, otherwise why the Conn
stopped. To stop with a context, and on Ctrl-C with [os/signal.NotifyContext]:

	context.AfterFunc(ctx, func() { c.Close() })
	return c.Wait()

# Errors

Errors are *[net.OpError] values with the operation, the addresses, and the
cause inside, for [errors.Is]: [net.ErrClosed], [net.ErrWriteToConnected],
[errors.ErrUnsupported], [syscall.ECONNREFUSED] and other numbers of the
system. What is wrong with an argument is said before the system is asked, and
changes nothing. What the system says is returned, or reported, or outlived:

	while opening
	  EADDRINUSE, EADDRNOTAVAIL, EACCES   returned by Listen and Dial
	  EMFILE, ENFILE: too many files      returned; nothing is left open
	  a buffer size is too large          clamped on Linux, and a line for the Logger with the limit's
	                                      name (net.core.rmem_max, wmem_max); returned elsewhere
	while reading
	  a report: ECONNREFUSED,             HandleUndelivered, and Stats.Undelivered;
	  EHOSTUNREACH, ENETUNREACH,          reading goes on at once
	  EMSGSIZE, EHOSTDOWN, ENONET, EPROTO,
	  ENOPROTOOPT, EOPNOTSUPP, EACCES
	  EINTR, EAGAIN                       never seen: read again, or waited for
	  the socket was closed               the Conn stops
	  ENOMEM, ENOBUFS, anything else      Stats.ReadErrors and a line for the Logger; tried again
	                                      after 5 ms, doubling to 1 s, which Close ends
	while writing
	  EAGAIN: the send buffer is full     waits until there is room
	  the report of an earlier datagram   goes to HandleUndelivered; this one is sent all the same
	  ENOBUFS: the interface's queue      tries 6 times in 8 ms, then returns it
	  is full
	  EMSGSIZE: longer than can be        returned; 65507 bytes fit into IPv4, 65527 into IPv6
	  EPERM: a firewall of this host      returned
	  EACCES: the route prohibits it      returned
	  ENETUNREACH, EHOSTUNREACH: no       returned; when the interface is back, the same socket
	  route, or no interface              works again
	  EINVAL: Local is not of this host   returned
	  anything else                       returned

What a write returns is counted in Stats.WriteErrors, and costs only the
datagram that it is about. It is about this host: what happens on the way is a
report. On Windows the numbers are translated to these.

A panic in a handler ends the program, as panics do. With
[ListenConfig] Recover set, it is counted and passed on, and the next datagram
is handled.

# What is counted

[Conn.Stats] has totals since the socket was opened: system calls, datagrams
and bytes each way, and what was lost. ReadDatagrams/Reads is how many
datagrams a read returns. A rising Dropped means that the handler is too slow
or ListenConfig.ReadBuffer too small; on Linux the kernel counts these, other
systems drop in silence. What the kernel has joined for offload it counts as
one; with ListenConfig.NoOffload the count is of datagrams. Discarded is what
was read but not meant for the handler: from others than the connected peer, for
groups not joined, or after Close.

# Sharing a port over cores

One goroutine serves one socket. To use more cores, open several sockets on
one port with ListenConfig.ReusePort, and the kernel spreads the peers over
them, always the same peer to the same socket:

	lc := udp.ListenConfig{ReusePort: true}
	for range runtime.GOMAXPROCS(0) {
		c, err := lc.Listen(ctx, ":9999", h) // h is called from all of them at once
		...
	}

With port 0, the first socket gets a port, and the others name it. Linux,
DragonFly and FreeBSD balance; elsewhere one socket may get everything, or
ReusePort is [errors.ErrUnsupported]. As sockets come and go, peers move to
others, and what waits in a socket that is closed is lost; Shutdown handles it
first. At the moment in which one is closed, Linux may give it a last datagram
of any peer, which is lost with it. A socket that goes from one process to the
next, as an [os.File] and by [NewConn], loses nothing: examples/restart is a
server that is replaced so.

# Testing your protocol

A program that takes a *ListenConfig can be tested without a socket. [MemNet]
is a network in memory, and a PacketListener: every address belongs to it, so
10.0.0.1:7 needs no setting up, and a datagram to a port where nobody listens
is refused, as the kernel does. With [testing/synctest] time is virtual, so a
test of retransmission takes no time and gives the same result on every run:

	func TestEcho(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			lc := &udp.ListenConfig{PacketListener: new(udp.MemNet)}
			server, err := lc.Listen(t.Context(), "10.0.0.1:7", udp.HandlerFunc(echo))
			if err != nil {
				t.Fatal(err)
			}
			var got []byte
			client, err := lc.Dial(t.Context(), "10.0.0.1:7", udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
				got = d.Clone().Payload
			}))
			if err != nil {
				t.Fatal(err)
			}
			client.Write([]byte("hello"))
			synctest.Wait() // until nothing more happens by itself
			if string(got) != "hello" {
				t.Errorf("received %q", got)
			}
			client.Close()
			server.Close()
		})
	}

The zero MemNet loses nothing and takes no time. Its fields are functions that
decide for each datagram whether it is lost (Drop), how long it takes (Delay;
different delays reorder) and how often it arrives (Copies). [MemNet.Host] adds
hosts, so that several instances of a program can be on the network, each at
":9999" of its own. Run the tests with
-race as well: they then find handlers that keep a lent payload.

# Security

The source address of a datagram is whatever its sender wrote there. A server
that sends more than it was sent, to an address that has proved nothing, is an
amplifier for attacks on others: answer with no more bytes than came, or ask
for a token that was sent to that address, before anything larger. Rate limits
by source do not help against forged sources. A server that replies to
everything can also be made to talk to itself, or to another such server, for
ever: reply to requests, not to replies, and not to the ports of services that
answer anything (7, 19, 53, 123).

A connected socket only filters by address, which can be forged too. Secrets
and decisions need authentication in the payload, as DTLS and QUIC have it.

On Linux nobody else can bind a port that Listen holds; Windows allows it to a
program that asks for address reuse. ListenMulticast turns address reuse on, as
sharing a group's port needs it: another program can then bind the same port,
and take the unicast datagrams that come there. With ReusePort, on Linux, only
programs of the same user share the port. Take nothing that matters by unicast
on a shared port.

Everything is parsed with its length checked, and a flood costs no memory that
stays: what does not fit into the socket's buffer is dropped by the kernel.
The Logger is told addresses, settings and errors, never payloads. Reports can
be forged by whoever knows the ports; the Conn stops nothing on one, and neither
should a program.

# Platforms

The package is for every system that [net] supports but Plan 9, and does more
on some:

	                               Linux   macOS   FreeBSD   Windows
	several datagrams a call       yes     -       -         -
	segmentation offload           yes     -       -         -
	Datagram.Local, Interface      yes     yes     yes       -
	Datagram.TTL                   yes     yes     yes       -
	Reply chooses the source       yes     udp4/6  udp4/6    -
	reports, connected sockets     yes     yes     yes       yes
	reports, all sockets           yes     -       -         -
	IPv4 groups on a dual socket   yes     -       -         -
	ReusePort balances             yes     -       yes       -
	Stats.Dropped                  yes     -       -         -

"udp4/6" means on sockets of one family. What a system cannot do is
[errors.ErrUnsupported] where a program asked for
it, and left zero or undone where it is a convenience. The build tag udpbasic
leaves out what is particular to Linux: one datagram for each call.
*/
package udp
