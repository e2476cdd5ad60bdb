package main

import (
	"context"
	"math"
	"os"
	"path"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"xmppgate/proxy"
)

// memoryShare is what of the memory of a container the Go runtime may have. The rest is for
// what it does not count, such as sockets.
const memoryShare = 0.9

// boundMemory does for a container with a memory limit what GOMEMLIMIT does, unless that
// is set: the kernel would end the process at the limit, without a word.
func boundMemory(environ map[string]string) {
	if environ["GOMEMLIMIT"] != "" {
		return
	}
	if most := containerMemory("/"); most > 0 {
		debug.SetMemoryLimit(int64(float64(most) * memoryShare))
	}
}

// bufferShare is what the buffers of sessions may have of GOMEMLIMIT. The rest is for
// sessions at rest, TLS and compression, and for garbage: buffers that were let go of.
const bufferShare = 1. / 3

// limitBuffers keeps buffers below bufferShare, if there is a GOMEMLIMIT. A look at memory
// now and then does not: what is alive is known only after a collection, and clients fill a
// few hundred megabytes before the next look.
func limitBuffers() {
	if l := debug.SetMemoryLimit(-1); l != math.MaxInt64 { // which only asks
		proxy.LimitBuffers(int64(float64(l) * bufferShare))
	}
}

// containerMemory returns the least limit of memory, in bytes, of the control groups that
// the process is in, zero for none. root is that of the file system.
func containerMemory(root string) (least uint64) {
	groups, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return 0 // not Linux
	}
	for line := range strings.Lines(string(groups)) {
		// hierarchy:controllers:path, see cgroups(7)
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		var dir, file string
		switch {
		case len(f) < 3:
			continue
		case f[0] == "0" && f[1] == "":
			dir, file = "sys/fs/cgroup", "memory.max"
		case f[1] == "memory":
			dir, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		for group := path.Clean("/" + f[2]); ; group = path.Dir(group) {
			text, _ := os.ReadFile(filepath.Join(root, dir, group, file)) // without a limit there may be none
			const unlimited = 1 << 60                                     // or more; version 2 writes max
			if n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64); err == nil && n > 0 && n < unlimited && (least == 0 || n < least) {
				least = n
			}
			if group == "/" {
				break
			}
		}
	}
	return least
}

const (
	// quietPeriod is how long no burst may be going on before memory is
	// returned.
	quietPeriod = time.Second
	// burstSize is the number of new sessions whose garbage is worth a
	// collection.
	burstSize = 256
)

// returnMemory returns memory to the system after a burst of new sessions, until
// ctx is done. Handshakes need several times the memory of idle sessions, and the
// runtime would keep it for the next burst: 4,000 sessions would hold 2.4 KiB each
// instead of 1.6, with TLS to the server 11.5 instead of 6.0. started returns the
// number of sessions so far.
func returnMemory(ctx context.Context, started func() uint64) {
	tick := time.NewTicker(quietPeriod)
	defer tick.Stop()
	var seen, returned uint64
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		n := started()
		if n-seen < burstSize/8 && n-returned >= burstSize {
			debug.FreeOSMemory()
			returned = n
		}
		seen = n
	}
}
