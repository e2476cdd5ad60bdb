package main

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// listingSessions are as many as one generator has descriptors for.
const listingSessions = 9000

// The listing scenario: what it does to a session that somebody looks at all of them.
func runListing(b *bench, r *recorder) error {
	s, err := newSystem(gate, true, "", func(u int) (*process, int, error) {
		return startGateway(b.dir, "", b.gateway, u, append(slices.Clone(production), "XMPPGATE_PING_INTERVAL=1h")...)
	})
	if err != nil {
		return err
	}
	defer s.close()
	// Health checks are answered, too.
	if err := unix.EpollCtl(s.epoll, unix.EPOLL_CTL_ADD, s.listener, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1}); err != nil {
		return err
	}
	if err := s.grow(listingSessions); err != nil {
		return err
	}
	for round := range b.rounds(5, 2) {
		for _, c := range []struct {
			name, path string
			clients    int
		}{
			{"nobody asks", "", 0},
			{"/metrics, one after the other", "/metrics", 1},
			{"/metrics/connections, one after the other", "/metrics/connections", 1},
			{"/connections?limit=1000, one after the other", "/connections?limit=1000", 1},
			{"/connections?limit=1000, 16 at a time", "/connections?limit=1000", 16},
		} {
			if err := s.probe(r, round, c.name, c.path, c.clients); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	return nil
}

// probe measures how long a stanza takes from a client to its server while clients ask
// the admin endpoints for path, and what that costs the gateway.
func (s *system) probe(r *recorder, round int, name, path string, clients int) error {
	const probes = 2000
	stop := make(chan struct{})
	var asking sync.WaitGroup
	answers := make([]int, clients)
	errs := make([]error, clients)
	for n := range clients {
		asking.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				res, err := http.Get("http://" + loopback(s.proc.admin) + path)
				if err == nil {
					_, err = io.Copy(io.Discard, res.Body)
					res.Body.Close()
					if err == nil && res.StatusCode == http.StatusOK {
						answers[n]++
					}
				}
				if err != nil {
					errs[n] = err
					return
				}
			}
		})
	}
	time.Sleep(2 * time.Second) // the first answer with rates takes one
	stanza := []byte(`<message xmlns="jabber:client"><body>a probe</body></message>`)
	frame := appendFrame(nil, opText, true, stanza)
	used, begun := cpu(s.proc), time.Now()
	before := sum(answers)
	var took []time.Duration
	for n := range probes {
		p := s.pairs[n%len(s.pairs)]
		sent := time.Now()
		if _, err := unix.Write(p.fd[client], frame); err != nil {
			return err
		}
		for got := 0; got < len(stanza); {
			n, err := unix.Read(p.fd[server], readBuffer[:])
			if err != nil && err != unix.EAGAIN && err != unix.EINTR || n == 0 {
				return fmt.Errorf("a probe did not arrive: %w", err)
			}
			got += max(n, 0)
			if time.Since(sent) > 10*time.Second {
				return fmt.Errorf("a probe did not arrive")
			}
		}
		took = append(took, time.Since(sent))
		time.Sleep(time.Millisecond)
	}
	spent, lasted := cpu(s.proc)-used, time.Since(begun)
	made := sum(answers) - before
	close(stop)
	asking.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	slices.Sort(took)
	micro := func(q float64) float64 { return float64(took[int(q*float64(len(took)-1))].Nanoseconds()) / 1e3 }
	r.add(name+": p50", "µs", round, gate, micro(.5))
	r.add(name+": p99", "µs", round, gate, micro(.99))
	r.add(name+": longest", "µs", round, gate, micro(1))
	if made > 0 {
		r.add(name+": CPU of the gateway", "ms per answer", round, gate, spent.Seconds()*1e3/float64(made))
		r.add(name+": answers", "per second", round, gate, float64(made)/lasted.Seconds())
	}
	return nil
}

func sum(all []int) (n int) {
	for _, i := range all {
		n += i
	}
	return n
}
