//go:build !nodemo

package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"xmppgate/cmd/xmppgate/internal/demo"
)

// demoCommand is the row of the table of subcommands that a build with the tag
// nodemo lacks: what faces the internet needs no demo.
var demoCommand = []command{{
	name: "demo", help: "run a server, the gateway and a chat page, to see it work", ownFlags: true,
	run: func(ctx context.Context, p process) int {
		signal.Reset(os.Interrupt, syscall.SIGTERM) // the demo has its own handlers
		return demo.Run(ctx, p.args, p.stdout, p.stderr)
	},
}}
