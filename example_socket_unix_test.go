//go:build unix

package udp_test

import (
	"fmt"
	"log"
	"net"
	"os"
	"syscall"

	"example.com/udp"
)

// The system knows options that this package does not have. They are reached
// by the socket itself, when it is open.
func ExampleConn_SyscallConn() {
	c, err := udp.Listen("127.0.0.1:0", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	raw, err := c.SyscallConn()
	if err != nil {
		log.Fatal(err)
	}
	var kind int
	var failed error
	if err := raw.Control(func(fd uintptr) {
		kind, failed = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_TYPE)
	}); err != nil {
		log.Fatal(err)
	}
	if failed != nil {
		log.Fatal(failed)
	}
	fmt.Println("a socket for datagrams:", kind == syscall.SOCK_DGRAM)
	// Output:
	// a socket for datagrams: true
}

// systemd opens the socket that a unit names by ListenDatagram=, and passes it
// to the program as descriptor 3 (sd_listen_fds(3)). What arrived before the
// program was there waits in it.
func ExampleNewConn_systemd() {
	fd, addr := passedByServiceManager() // in a service: 3
	f := os.NewFile(uintptr(fd), "socket")
	pc, err := net.FilePacketConn(f)
	f.Close()
	if err != nil {
		log.Fatal(err)
	}
	received := make(chan string)
	c, err := udp.NewConn(pc, udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		received <- string(d.Payload)
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	fmt.Println(<-received)
	fmt.Println("at the address of the unit:", c.LocalAddr().String() == addr.String())
	// Output:
	// sent before the service ran
	// at the address of the unit: true
}

// passedByServiceManager does what systemd does: it binds a socket, lets
// something arrive, and returns the descriptor.
func passedByServiceManager() (fd int, addr net.Addr) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer pc.Close()
	if _, err := pc.WriteTo([]byte("sent before the service ran"), pc.LocalAddr()); err != nil {
		log.Fatal(err)
	}
	f, err := pc.(*net.UDPConn).File()
	if err != nil {
		log.Fatal(err)
	}
	defer f.Close()
	if fd, err = syscall.Dup(int(f.Fd())); err != nil {
		log.Fatal(err)
	}
	return fd, pc.LocalAddr()
}
