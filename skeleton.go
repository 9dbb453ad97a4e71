package udp

import (
	"errors"
	"net/netip"
)

// JoinAll is to come.
func (c *Conn) JoinAll(group netip.Addr) error {
	return c.opError(opJoin, netip.AddrPort{}, errors.ErrUnsupported)
}
