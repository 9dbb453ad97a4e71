package bench

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"example.com/udp"
)

// BenchmarkTimers sets timers that do not come to run, as those of answers
// that arrive in time: on one Conn, and one on each of many, beside
// time.AfterFunc. Once all are set, an operation is to set one of them again.
// B/timer is what each of those that wait takes of Go's memory.
func BenchmarkTimers(b *testing.B) {
	const onOne, conns = 100_000, 10_000
	f := func() {}
	d := func(i int) time.Duration { return time.Hour + time.Duration(i*7919%onOne)*time.Millisecond }
	b.Run(fmt.Sprintf("%d/time.AfterFunc", onOne), func(b *testing.B) {
		timers := make([]*time.Timer, onOne)
		waiting(b, onOne, func(i int) { timers[i] = time.AfterFunc(d(i), f) }, func(i, n int) { timers[i].Reset(d(n)) })
		for _, t := range timers {
			t.Stop()
		}
	})
	b.Run(fmt.Sprintf("%d/one Conn", onOne), func(b *testing.B) {
		c := udpListen(b, nil)
		timers := make([]*udp.Timer, onOne)
		waiting(b, onOne, func(i int) { timers[i] = c.AfterFunc(d(i), f) }, func(i, n int) { timers[i].Reset(d(n)) })
	})
	b.Run(fmt.Sprintf("1 on each of %d/time.AfterFunc", conns), func(b *testing.B) {
		manyConns(b, conns)
		timers := make([]*time.Timer, conns)
		waiting(b, conns, func(i int) { timers[i] = time.AfterFunc(d(i), f) }, func(i, n int) { timers[i].Reset(d(n)) })
		for _, t := range timers {
			t.Stop()
		}
	})
	b.Run(fmt.Sprintf("1 on each of %d/its Conn", conns), func(b *testing.B) {
		cs := manyConns(b, conns)
		timers := make([]*udp.Timer, conns)
		waiting(b, conns, func(i int) { timers[i] = cs[i].AfterFunc(d(i), f) }, func(i, n int) { timers[i].Reset(d(n)) })
	})
}

// waiting sets count timers, and measures their memory and, for one operation
// each, what it takes to set one again.
func waiting(b *testing.B, count int, set func(i int), again func(i, n int)) {
	before := inUse()
	for i := range count {
		set(i)
	}
	used := float64(inUse()-before) / float64(count)
	b.ReportAllocs()
	b.ResetTimer()
	for n := range b.N {
		again(n*31%count, n)
	}
	b.StopTimer()
	b.ReportMetric(used, "B/timer")
}

// BenchmarkTimersRun has timers come to run, many at about the same time.
func BenchmarkTimersRun(b *testing.B) {
	run := func(set func(d time.Duration, f func())) func(b *testing.B) {
		return func(b *testing.B) {
			done := make(chan bool, 64)
			b.ReportAllocs()
			for n := 0; n < b.N; n += 64 {
				for range 64 {
					set(time.Microsecond, func() { done <- true })
				}
				for range 64 {
					<-done
				}
			}
		}
	}
	b.Run("time.AfterFunc", run(func(d time.Duration, f func()) { time.AfterFunc(d, f) }))
	b.Run("Conn", func(b *testing.B) {
		c := udpListen(b, nil)
		run(func(d time.Duration, f func()) { c.AfterFunc(d, f) })(b)
	})
}

// BenchmarkPost has an idle Conn called and answering, by Post and by a
// datagram to itself.
func BenchmarkPost(b *testing.B) {
	b.Run("Post", func(b *testing.B) {
		c := udpListen(b, nil)
		done := make(chan bool)
		f := func() { done <- true }
		b.ReportAllocs()
		for b.Loop() {
			c.Post(f)
			<-done
		}
	})
	b.Run("datagram", func(b *testing.B) {
		done := make(chan bool)
		c := udpListen(b, udp.HandlerFunc(func(*udp.Conn, udp.Datagram) { done <- true }))
		b.ReportAllocs()
		for b.Loop() {
			c.WriteTo([]byte("x"), c.LocalAddr())
			<-done
		}
	})
}

func manyConns(b *testing.B, count int) []*udp.Conn {
	b.Helper()
	cs := make([]*udp.Conn, count)
	for i := range cs {
		cs[i] = udpListen(b, nil)
	}
	return cs
}

func inUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}
