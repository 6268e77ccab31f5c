// Amberctl is the command line of Amber: it backs up Redis and Valkey servers into a store, shows and verifies what is there,
// and puts it back. `amberctl --help` tells the rest.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
	_ "time/tzdata" // of policies, for machines that have none

	"github.com/redis/go-redis/v9/logging"
)

func main() {
	// The first signal ends the work in good order, the second one the program. One that comes within a moment is no second one: timeout(1) and others
	// send it to the process and to its group.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, func() { time.AfterFunc(300*time.Millisecond, stop) })
	logging.Disable() // of go-redis: what goes wrong is in the errors
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Getenv))
}
