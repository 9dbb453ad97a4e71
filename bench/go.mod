module example.com/udp/bench

go 1.26.0

require (
	example.com/udp v0.0.0
	golang.org/x/net v0.62.0
	golang.org/x/sys v0.49.0
)

replace example.com/udp => ../
