//go:build !js && !wasip1

// Command restart is an echo server that is replaced without losing a
// datagram.
//
// It shows how a socket goes from one process to another: on SIGHUP, restart
// starts its program anew with the same socket, and shuts down as soon as
// that serves. What arrives meanwhile waits in the socket, and one of the two
// answers it. (Not on Windows, where sockets cannot be handed over like that.)
//
//	go build -o /tmp ./examples/restart && /tmp/restart
//	kill -HUP PID    (in another terminal)
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"example.com/udp"
)

// A successor finds this in its environment, and the socket and a pipe as
// these descriptors: the first two of exec.Cmd's ExtraFiles.
const (
	isSuccessor = "RESTART_SUCCESSOR"
	socketFile  = 3
	pipeFile    = 4
)

func main() {
	address := flag.String("listen", "127.0.0.1:9999", "`address` to listen on")
	flag.Parse()
	if err := run(*address); err != nil {
		fmt.Fprintln(os.Stderr, "restart:", err)
		os.Exit(1)
	}
}

func run(address string) error {
	interrupt, hangup := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(interrupt, os.Interrupt, syscall.SIGTERM)
	signal.Notify(hangup, syscall.SIGHUP)

	pc, err := open(address)
	if err != nil {
		return err
	}
	c, err := udp.NewConn(pc, udp.HandlerFunc(func(c *udp.Conn, d udp.Datagram) {
		c.Reply(d, d.Payload)
	}))
	if err != nil {
		return err
	}
	say("listening on", c.LocalAddr())
	if os.Getenv(isSuccessor) != "" {
		pipe := os.NewFile(pipeFile, "pipe")
		pipe.WriteString("ready")
		pipe.Close()
	}

	for running := true; running; {
		select {
		case <-interrupt:
			running = false
		case <-hangup:
			if err := handOver(pc); err != nil {
				say("no successor:", err) // and no end
			} else {
				running = false
			}
		}
	}
	// Shutdown handles what waits, as long as the socket has any; a successor
	// does the same meanwhile.
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err = c.Shutdown(ctx)
	say("answered", c.Stats().ReadDatagrams)
	return err
}

func say(args ...any) {
	fmt.Println(append([]any{"process", os.Getpid()}, args...)...)
}

// open opens a socket, or takes over that of the process before.
func open(address string) (net.PacketConn, error) {
	if os.Getenv(isSuccessor) == "" {
		return net.ListenPacket("udp", address)
	}
	f := os.NewFile(socketFile, "socket")
	defer f.Close() // FilePacketConn duplicates it
	return net.FilePacketConn(f)
}

// handOver starts this program with the socket, and waits until it serves.
func handOver(pc net.PacketConn) error {
	conn, ok := pc.(*net.UDPConn)
	if !ok {
		return errors.ErrUnsupported
	}
	socket, err := conn.File()
	if err != nil {
		return err
	}
	defer socket.Close()
	ready, pipe, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ready.Close()
	program, err := os.Executable()
	if err != nil {
		return errors.Join(err, pipe.Close())
	}

	cmd := exec.Command(program, os.Args[1:]...)
	cmd.Env = append(os.Environ(), isSuccessor+"=1")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{socket, pipe}
	err = cmd.Start()
	pipe.Close()
	if err != nil {
		return err
	}
	// The pipe ends without a word if the successor does.
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		return errors.Join(err, cmd.Wait())
	}
	return nil
}
