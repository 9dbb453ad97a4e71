package udp_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"syscall"

	"example.com/udp"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// An option that must be set before the socket is bound goes into the Control
// function of a net.ListenConfig: here IP_FREEBIND (ip(7)), by which a server
// listens at an address that this host gets later. IP_TRANSPARENT and SO_MARK
// are set in the same way, and need CAP_NET_ADMIN.
func ExampleListenConfig_control() {
	lc := udp.ListenConfig{
		PacketListener: &net.ListenConfig{
			Control: func(network, address string, raw syscall.RawConn) error {
				var failed error
				err := raw.Control(func(fd uintptr) {
					failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_FREEBIND, 1)
				})
				if err != nil {
					return err
				}
				return failed
			},
		},
	}
	c, err := lc.Listen(context.Background(), "192.0.2.1:0", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Println("listening at", c.LocalAddr().Addr())
	// Output:
	// listening at 192.0.2.1
}

// A program in the kernel says which of several sockets on a port gets a
// datagram (SO_ATTACH_REUSEPORT_CBPF, socket(7)): here the first byte of its
// payload, as a connection ID would, whatever address it comes from.
func ExampleListenConfig_steering() {
	const shards = 2
	program, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 1}, // the payload begins here
		bpf.ALUOpConstant{Op: bpf.ALUOpMod, Val: shards},
		bpf.RetA{},
	})
	if err != nil {
		log.Fatal(err)
	}
	filters := make([]unix.SockFilter, len(program))
	for i, p := range program {
		filters[i] = unix.SockFilter{Code: p.Op, Jt: p.Jt, Jf: p.Jf, K: p.K}
	}

	lc := udp.ListenConfig{ReusePort: true}
	received := make(chan string)
	address := "127.0.0.1:0"
	for shard := range shards {
		c, err := lc.Listen(context.Background(), address, udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
			received <- fmt.Sprintf("shard %d has connection %d", shard, d.Payload[0])
		}))
		if err != nil {
			log.Fatal(err)
		}
		defer c.Close()
		address = c.LocalAddr().String()
		if shard > 0 {
			continue
		}
		raw, err := c.SyscallConn() // one socket stands for all of the port
		if err != nil {
			log.Fatal(err)
		}
		var failed error
		if err := raw.Control(func(fd uintptr) {
			failed = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF,
				&unix.SockFprog{Len: uint16(len(filters)), Filter: &filters[0]})
		}); err != nil {
			log.Fatal(err)
		}
		if failed != nil {
			log.Fatal(failed)
		}
	}

	for connection := range byte(4) {
		client, err := udp.Dial(context.Background(), address, nil)
		if err != nil {
			log.Fatal(err)
		}
		if _, err := client.Write([]byte{connection}); err != nil {
			log.Fatal(err)
		}
		fmt.Println(<-received)
		client.Close()
	}
	// Output:
	// shard 0 has connection 0
	// shard 1 has connection 1
	// shard 0 has connection 2
	// shard 1 has connection 3
}
