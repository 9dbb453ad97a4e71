module example.com/udp/bench

go 1.26.0

require (
	example.com/udp v0.0.0
	github.com/quic-go/quic-go v0.65.0
	golang.org/x/net v0.62.0
	golang.org/x/sys v0.49.0
)

require golang.org/x/crypto v0.58.0 // indirect

replace example.com/udp => ../
