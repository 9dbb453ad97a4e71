package udp_test

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"log"
	"net/netip"
	"time"

	"example.com/udp"
)

// A tally is the session of one peer.
type tally struct{ datagrams int }

var _ udp.StopHandler = (*tally)(nil)

func (s *tally) HandleDatagram(c *udp.Conn, d udp.Datagram) {
	s.datagrams++
	c.Reply(d, fmt.Appendf(nil, "%s: your number %d", d.Payload, s.datagrams))
}

// HandleStop is where a session stops its timers and closes what it has open.
func (s *tally) HandleStop(c *udp.Conn, err error) {
	fmt.Println("a session ends, after", s.datagrams)
}

// A server that counts for each peer. No lock is needed: the Conn's goroutine
// makes all calls of all sessions.
func ExampleSessions() {
	sessions := &udp.Sessions{
		Idle: 30 * time.Second,
		Max:  1000,
		New:  func(c *udp.Conn, d udp.Datagram) udp.Handler { return new(tally) },
	}
	server, err := udp.Listen("127.0.0.1:0", sessions)
	if err != nil {
		log.Fatal(err)
	}

	answers := make(chan string)
	for _, name := range []string{"one", "two"} {
		client, err := udp.Dial(context.Background(), server.LocalAddr().String(), udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
			answers <- string(d.Payload)
		}))
		if err != nil {
			log.Fatal(err)
		}
		defer client.Close()
		for range 2 {
			if _, err := client.Write([]byte(name)); err != nil {
				log.Fatal(err)
			}
			fmt.Println(<-answers)
		}
	}
	fmt.Println("sessions:", sessions.Len())
	server.Close()
	server.Wait()
	// Output:
	// one: your number 1
	// one: your number 2
	// two: your number 1
	// two: your number 2
	// sessions: 2
	// a session ends, after 2
	// a session ends, after 2
}

// A cookieServer begins sessions for those only who can read what is sent to their
// address: a source is easily forged, and each session costs memory.
type cookieServer struct {
	key      []byte // a server in earnest changes it now and then, and takes the last one too
	sessions udp.Sessions
}

const cookieSize = 16

func (s *cookieServer) cookie(peer netip.AddrPort) []byte {
	mac := hmac.New(sha256.New, s.key)
	address, _ := peer.MarshalBinary()
	mac.Write(address)
	return mac.Sum(nil)[:cookieSize]
}

// newSession keeps nothing about a peer that has not shown its cookie.
func (s *cookieServer) newSession(c *udp.Conn, d udp.Datagram) udp.Handler {
	if len(d.Payload) < cookieSize {
		return nil // nor is the answer longer than what it answers
	}
	cookie := s.cookie(d.Addr)
	if !hmac.Equal(d.Payload[:cookieSize], cookie) {
		d.Payload = cookie
		c.Queue(d)
		return nil
	}
	return udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		c.Reply(d, append([]byte("welcome, "), d.Payload[cookieSize:]...))
	})
}

// A server that begins a session for who answers from the address that it
// claims to have.
func ExampleSessions_cookie() {
	s := &cookieServer{key: make([]byte, 32)}
	rand.Read(s.key)
	s.sessions.New = s.newSession
	server, err := udp.Listen("127.0.0.1:0", &s.sessions)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()

	answers := make(chan []byte)
	client, err := udp.Dial(context.Background(), server.LocalAddr().String(), udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		answers <- d.Clone().Payload
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	if _, err := client.Write(make([]byte, cookieSize)); err != nil { // a first datagram, as long as its answer
		log.Fatal(err)
	}
	cookie := <-answers
	fmt.Println("sessions:", s.sessions.Len(), "refused:", s.sessions.Refused())
	if _, err := client.Write(append(cookie, "Alice"...)); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", <-answers)
	fmt.Println("sessions:", s.sessions.Len())
	// Output:
	// sessions: 0 refused: 1
	// welcome, Alice
	// sessions: 1
}

// Handling takes long here, so it is done in eight goroutines. What they share
// needs a lock; what they know about one peer does not, as a peer's datagrams
// go to one goroutine, in their order.
func ExampleWorkers() {
	workers := &udp.Workers{
		N:     8,
		Queue: 100, // for each goroutine; what comes when that is full is dropped, and counted
		Handler: udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
			sum := sha256.Sum256(d.Payload)
			c.Reply(d, fmt.Appendf(nil, "%x", sum[:4]))
		}),
	}
	server, err := udp.Listen("127.0.0.1:0", workers)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()

	answers := make(chan string)
	client, err := udp.Dial(context.Background(), server.LocalAddr().String(), udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		answers <- string(d.Payload)
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	for _, question := range []string{"one", "two"} {
		if _, err := client.Write([]byte(question)); err != nil {
			log.Fatal(err)
		}
		fmt.Println(question, <-answers)
	}
	fmt.Println("dropped:", workers.Dropped())
	// Output:
	// one 7692c3ad
	// two 3fc4ccfe
	// dropped: 0
}
