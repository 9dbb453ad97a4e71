package udp

import (
	"encoding/binary"
	"unsafe"
)

// Control messages as Linux and Windows have them: struct cmsghdr (cmsg(3)) and
// WSACMSGHDR are a length of the size of a word, a level and a kind; data and
// the next message begin at words.
const (
	alignment   = int(unsafe.Sizeof(uintptr(0)))
	headerSpace = alignment + 8
)

// nextControl splits the first control message, a struct cmsghdr and its data
// (cmsg(3)), off b. It is not ok if there is none, or a malformed one.
func nextControl(b []byte) (level, kind int32, data, rest []byte, ok bool) {
	if len(b) < headerSpace {
		return 0, 0, nil, nil, false
	}
	size := 0
	if alignment == 8 {
		size = int(binary.NativeEndian.Uint64(b))
	} else {
		size = int(binary.NativeEndian.Uint32(b))
	}
	if size < headerSpace || size > len(b) {
		return 0, 0, nil, nil, false
	}
	level = int32(binary.NativeEndian.Uint32(b[alignment:]))
	kind = int32(binary.NativeEndian.Uint32(b[alignment+4:]))
	return level, kind, b[headerSpace:size], b[min(len(b), (size+alignment-1)&^(alignment-1)):], true
}

// appendControlHeader appends a struct cmsghdr for so many bytes of data, and
// returns with it the length that b is to have after the data.
func appendControlHeader(b []byte, size int, level, kind int32) (header []byte, end int) {
	end = len(b) + headerSpace + (size+alignment-1)&^(alignment-1)
	if alignment == 8 {
		b = binary.NativeEndian.AppendUint64(b, uint64(headerSpace+size))
	} else {
		b = binary.NativeEndian.AppendUint32(b, uint32(headerSpace+size))
	}
	b = binary.NativeEndian.AppendUint32(b, uint32(level))
	return binary.NativeEndian.AppendUint32(b, uint32(kind)), end
}

// pad appends zeros until b is end long.
func pad(b []byte, end int) []byte {
	for len(b) < end {
		b = append(b, 0)
	}
	return b
}
