//go:build !linux

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "compare: pins processes to cores and reads their processor time by Linux's own means; it runs there only")
	os.Exit(1)
}
