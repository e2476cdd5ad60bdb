package main

import (
	"context"
	"os"

	"xmppgate/cmd/xmppgate/internal/doctor"
)

func runDoctor(ctx context.Context, p process) int {
	return doctor.Run(ctx, p.args, os.Stdin, p.stdout, p.stderr)
}
