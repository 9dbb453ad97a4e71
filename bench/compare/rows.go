package main

import "math"

// The peers, by the names they have in the tables. Package udp in batches is
// HandleBatch and WriteBatch, with Queue it is HandleDatagram and Queue, one by
// one it is HandleDatagram, Reply and Write.
const (
	udpBatch     = "udp, batches"
	udpQueue     = "udp, Queue"
	udpSimple    = "udp, one by one"
	udpNoOffload = "udp, batches, NoOffload"
	netLoop      = "net"
	xnetLoop     = "x/net, batches"
	cPlain       = "C, one by one"
	cMmsg        = "C, recvmmsg, sendmmsg"
	cGSO         = "C, GRO, GSO"
	asyncio      = "Python asyncio"
	uvloop       = "Python uvloop"
	twisted      = "Python Twisted"
)

type peer struct{ name, language, kind string }

var peers = []peer{
	{udpBatch, "Go", "batch"},
	{udpQueue, "Go", "queue"},
	{udpSimple, "Go", "simple"},
	{udpNoOffload, "Go", "nooffload"},
	{netLoop, "Go", "net"},
	{xnetLoop, "Go", "xnet"},
	{cPlain, "C", "plain"},
	{cMmsg, "C", "mmsg"},
	{cGSO, "C", "gso"},
	{asyncio, "Python", "asyncio"},
	{uvloop, "Python", "uvloop"},
	{twisted, "Python", "twisted"},
}

// A row is one kind of work, which several peers do.
type row struct {
	id, title, unit string
	less            bool // is better
	role            string
	load            load
	peers           []string
}

// A load says what is done to the server, in fields that belong to the role.
type load struct {
	flows, window int  // echo
	mixed         bool // echo: a flow's datagrams do not come side by side
	offload       bool // echo: the clients segment and coalesce
	latency       bool // echo: measure each round trip
	bursts        bool // recv: the sender pauses after some
	oneCore       bool // the load runs on the server's core
}

const (
	perCPU = "datagrams/s of server CPU"
	micros = "µs, p50"
	kib    = "KiB"
	opens  = "sockets/s of server CPU"
)

var rows = []row{
	{
		id: "echo", title: "echo, 64 flows, 8 in flight, 64 B", unit: perCPU, role: "echo",
		load:  load{flows: 64, window: 8},
		peers: []string{udpBatch, udpQueue, udpSimple, netLoop, xnetLoop, cPlain, cMmsg, cGSO, asyncio, uvloop, twisted},
	},
	{
		id: "echo-mixed", title: "echo, 64 flows, 8 in flight, 64 B, mixed with each other", unit: perCPU, role: "echo",
		load:  load{flows: 64, window: 8, mixed: true},
		peers: []string{udpBatch, udpQueue, udpSimple, netLoop},
	},
	{
		id: "echo-offload", title: "echo, 64 flows, 8 in flight, 64 B, clients that use offload", unit: perCPU, role: "echo",
		load:  load{flows: 64, window: 8, offload: true},
		peers: []string{udpBatch, udpSimple, netLoop, cMmsg, cGSO},
	},
	{
		id: "echo-1", title: "echo, 64 flows, 1 in flight, 64 B", unit: perCPU, role: "echo",
		load:  load{flows: 64, window: 1},
		peers: []string{udpBatch, udpSimple, netLoop, xnetLoop, cPlain, cMmsg},
	},
	{
		id: "echo-single", title: "echo, 1 flow, 1 in flight, 64 B", unit: perCPU, role: "echo",
		load:  load{flows: 1, window: 1},
		peers: []string{udpBatch, udpSimple, netLoop, xnetLoop, cPlain, cMmsg},
	},
	{
		id: "send", title: "send 1200 B in batches of 64, to one peer", unit: perCPU, role: "send",
		peers: []string{udpBatch, udpNoOffload, netLoop, xnetLoop, cPlain, cMmsg, cGSO},
	},
	{
		id: "write", title: "send 1200 B, Write one at a time", unit: perCPU, role: "write",
		peers: []string{udpSimple, netLoop},
	},
	{
		id: "receive", title: "receive 1200 B from a sender with GSO", unit: perCPU, role: "recv",
		peers: []string{udpBatch, udpSimple, udpNoOffload, netLoop, xnetLoop, cPlain, cMmsg, cGSO},
	},
	{
		id: "receive-bursts", title: "receive 1200 B in bursts, on one core", unit: perCPU, role: "recv",
		load:  load{bursts: true, oneCore: true},
		peers: []string{udpBatch, udpSimple, udpNoOffload, netLoop, xnetLoop, cPlain, cMmsg, cGSO},
	},
	{
		id: "ping-pong-1", title: "ping-pong on one core", unit: micros, less: true, role: "echo",
		load:  load{latency: true, oneCore: true},
		peers: []string{udpSimple, udpBatch, netLoop, cPlain, asyncio, uvloop, twisted},
	},
	{
		id: "ping-pong-2", title: "ping-pong on two cores", unit: micros, less: true, role: "echo",
		load:  load{latency: true},
		peers: []string{udpSimple, udpBatch, netLoop, cPlain, asyncio, uvloop, twisted},
	},
	{
		id: "open", title: "open a socket at port 0 with a reader, close it", unit: opens, role: "open",
		peers: []string{udpSimple, netLoop},
	},
	{
		id: "dial", title: "the same, connected", unit: opens, role: "dial",
		peers: []string{udpSimple, netLoop},
	},
	{
		id: "idle", title: "Go memory of an idle socket", unit: kib, less: true, role: "idle",
		peers: []string{udpSimple, netLoop},
	},
}

// A goal is a figure of package udp over another peer's in the same row, or,
// where against is empty, by itself.
type goal struct {
	row, ours, against string
	floor, aim         float64
}

var goals = []goal{
	{"echo", udpBatch, netLoop, 1.8, 2.5},
	{"echo", udpBatch, cMmsg, 1.0, 1.3},
	{"echo-offload", udpBatch, cMmsg, 4.5, 6},
	{"echo-offload", udpBatch, cGSO, 0.8, 1.0},
	{"echo", udpQueue, udpBatch, 0.9, 1.0},
	{"echo", udpQueue, udpSimple, 1.6, 2.5},
	{"echo", udpSimple, netLoop, 1.2, 1.5},
	{"echo-mixed", udpQueue, udpBatch, 0.9, 1.0},
	{"echo-mixed", udpQueue, udpSimple, 1.25, 1.4},
	{"echo-1", udpBatch, netLoop, 1.25, 1.6},
	{"echo-1", udpSimple, netLoop, 1.05, 1.4},
	{"echo-single", udpBatch, netLoop, 1.25, 1.6},
	{"echo-single", udpSimple, netLoop, 1.05, 1.4},
	{"send", udpBatch, netLoop, 15, 30},
	{"send", udpBatch, cGSO, 0.75, 1.0},
	{"send", udpNoOffload, cMmsg, 0.9, 1.0},
	{"write", udpSimple, netLoop, 1.1, 1.4},
	{"receive", udpBatch, netLoop, 7, 12},
	{"receive", udpBatch, cGSO, 0.5, 0.8},
	{"receive", udpNoOffload, netLoop, 1.2, 1.6},
	{"receive", udpNoOffload, cMmsg, 0.6, 0.9},
	{"ping-pong-1", udpSimple, netLoop, 0.9, 0.7},
	{"ping-pong-2", udpSimple, netLoop, 1.05, 0.8},
	{"open", udpSimple, netLoop, 0.5, 1},
	{"dial", udpSimple, netLoop, 0.5, 1},
	{"idle", udpSimple, "", 5, 3},
	{"allocations", "", "", 0, 0},
}

// decisive are the goals that the README shows: what decides whether the
// package is for a reader.
var decisive = []goal{
	{row: "echo", ours: udpBatch, against: netLoop},
	{row: "echo", ours: udpQueue, against: netLoop},
	{row: "echo", ours: udpSimple, against: netLoop},
	{row: "echo", ours: udpBatch, against: cMmsg},
	{row: "echo-offload", ours: udpBatch, against: cGSO},
	{row: "echo-1", ours: udpSimple, against: netLoop},
	{row: "send", ours: udpBatch, against: netLoop},
	{row: "receive", ours: udpBatch, against: netLoop},
	{row: "receive", ours: udpNoOffload, against: netLoop},
	{row: "ping-pong-2", ours: udpSimple, against: netLoop},
	{row: "open", ours: udpSimple, against: netLoop},
}

// A spread is the median of several figures, and how far they lie apart.
type spread struct{ median, min, max float64 }

// results holds a figure for each round, by row and peer. A round that failed
// is NaN, so that the rounds of different peers stay side by side.
type results map[string]map[string][]float64

func (r results) add(row, peer string, v float64) {
	if r[row] == nil {
		r[row] = map[string][]float64{}
	}
	r[row][peer] = append(r[row][peer], v)
}

// ratio is the spread of the ratios of figures that were measured next to
// each other: what slows the machine down for a while slows both.
func (r results) ratio(row, ours, against string) (spread, bool) {
	a, b := r[row][ours], r[row][against]
	var q []float64
	for i := range min(len(a), len(b)) {
		q = append(q, a[i]/b[i])
	}
	return summarize(q)
}

func (r results) figure(row, peer string) (spread, bool) { return summarize(r[row][peer]) }

// verdict says what a goal's figure comes to.
func (g goal) verdict(v float64, less bool) string {
	sign := 1.0
	if less {
		sign = -1
	}
	switch {
	case sign*v >= sign*g.aim:
		return "aim"
	case sign*v >= sign*g.floor:
		return "floor"
	case math.IsNaN(v):
		return "?"
	default:
		return "below"
	}
}
