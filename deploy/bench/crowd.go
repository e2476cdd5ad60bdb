package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The crowd scenario: more sessions than a process may have descriptors for.
// Each gateway has a generator of its own, a child of this process that is both
// ends of its sessions and takes commands on its standard input.

// A part is a child with its gateway, as the parent sees it.
type part struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

// A partState is what a child answers to each command.
type partState struct {
	Sessions int // alive
	Pongs    int // so far
	RSS      float64
	Error    string
}

func startPart(b *bench, port int, ping time.Duration) (*part, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &part{cmd: exec.Command(self, "-part", strconv.Itoa(port), "-ping", ping.String(), "-gateway", b.gateway)}
	p.cmd.Dir, p.cmd.Stderr = b.dir, os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = json.NewDecoder(out)
	return p, p.cmd.Start()
}

func (p *part) ask(command string) (st partState, err error) {
	if _, err = fmt.Fprintln(p.in, command); err == nil {
		err = p.out.Decode(&st)
	}
	if st.Error != "" {
		err = errors.New(st.Error)
	}
	return st, err
}

// askAll asks all parts at once.
func askAll(parts []*part, command string) ([]partState, error) {
	states, errs := make([]partState, len(parts)), make([]error, len(parts))
	var wg sync.WaitGroup
	for i, p := range parts {
		wg.Go(func() { states[i], errs[i] = p.ask(command) })
	}
	wg.Wait()
	return states, errors.Join(errs...)
}

// crowdFew is how many sessions make a gateway touch what it has only once.
const crowdFew = 500

func runCrowd(b *bench, r *recorder) error {
	if *short {
		return crowd(b, r, 3, 6700, 30*time.Second, time.Minute)
	}
	return crowd(b, r, 11, 9100, 30*time.Second, 10*time.Minute)
}

// runHalfMillion is as much as a machine with two processors can ping, beside the other end
// of each session.
func runHalfMillion(b *bench, r *recorder) error {
	if *short {
		return crowd(b, r, 6, 9000, 30*time.Second, time.Minute)
	}
	return crowd(b, r, 52, 9650, 2*time.Minute, 3*time.Minute)
}

// crowd holds so many sessions in each of some gateways, which ping after so long.
func crowd(b *bench, r *recorder, processes, each int, ping, hold time.Duration) error {
	var parts []*part
	defer func() {
		for _, p := range parts {
			p.in.Close()
			p.cmd.Wait()
		}
	}()
	for i := range processes {
		p, err := startPart(b, nextPort+10*i, ping) // a part needs three ports
		if err != nil {
			return err
		}
		parts = append(parts, p)
	}
	var empty, few []partState
	var err error
	for _, n := range []int{0, crowdFew} {
		empty = few
		if _, err = askAll(parts, strconv.Itoa(n)); err != nil {
			return err
		}
		time.Sleep(idleAfter)
		if few, err = askAll(parts, strconv.Itoa(n)); err != nil {
			return err
		}
	}
	before, err := systemMemory()
	if err != nil {
		return err
	}
	begin := time.Now()
	first, err := askAll(parts, strconv.Itoa(each))
	if err != nil {
		return err
	}
	took := time.Since(begin)
	time.Sleep(hold)
	last, err := askAll(parts, strconv.Itoa(each))
	if err != nil {
		return err
	}
	after, err := systemMemory()
	if err != nil {
		return err
	}
	alive, pongs := 0, 0
	for i := range parts {
		alive += last[i].Sessions
		pongs += last[i].Pongs - first[i].Pongs
		r.add("RSS over that of an empty gateway", "KiB per session", i, gate, (last[i].RSS-empty[i].RSS)/float64(each))
		r.add("RSS of all but the first 500 of each", "KiB per session", i, gate, (last[i].RSS-few[i].RSS)/float64(each-crowdFew))
	}
	all := processes * each
	r.add("sessions", "", 0, gate, float64(all))
	r.add("gateways", "", 0, gate, float64(processes))
	r.add("logged in", "seconds", 0, gate, took.Seconds())
	r.add("held", "seconds", 0, gate, hold.Seconds())
	r.add("sessions lost", "", 0, gate, float64(all-alive))
	r.add("pings answered", "per session", 0, gate, float64(pongs)/float64(all))
	grown := float64(all - crowdFew*processes)
	r.add("memory of the kernel, of all four sockets", "KiB per session", 0, gate, (after.kernel-before.kernel)/grown)
	r.add("memory that is not available any more, of everything", "KiB per session", 0, gate, (before.available-after.available)/grown)
	return nil
}

// runPart is a child. A command is how many sessions there should ever have
// been; one that is lost is not replaced.
func runPart(port int) error {
	defer stopAll()
	nextPort = port
	s, err := newSystem(gate, true, "", func(u int) (*process, int, error) {
		return startGateway(".", "", *gateway, u, append(production, "XMPPGATE_PING_INTERVAL="+pingAfter.String())...)
	})
	if err != nil {
		return err
	}
	defer s.close()
	if err := s.watchListener(); err != nil {
		return err
	}
	commands := make(chan int)
	go func() {
		defer close(commands) // the parent has ended, too
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			n, _ := strconv.Atoi(lines.Text())
			commands <- n
		}
	}()
	st := partState{}
	for {
		select {
		case n, ok := <-commands:
			if !ok {
				return nil
			}
			if err == nil {
				err = s.growAndAnswer(n, &st)
			}
			if err != nil {
				st.Error = err.Error()
			}
			st.RSS = rss(s.proc)
			if err := json.NewEncoder(os.Stdout).Encode(st); err != nil {
				return err
			}
		default:
			if err == nil {
				err = s.answerPings(&st, 100*time.Millisecond)
			}
		}
	}
}

// answerPings waits for events, answers all pings that have come and counts
// the sessions that have ended.
func (s *system) answerPings(st *partState, wait time.Duration) error {
	var events [128]unix.EpollEvent
	for n := len(events); n == len(events); wait = 0 {
		var err error
		n, err = unix.EpollWait(s.epoll, events[:], int(wait.Milliseconds()))
		if err != nil && err != unix.EINTR {
			return err
		}
		for _, e := range events[:max(n, 0)] {
			if e.Fd < 0 {
				if fd, err := s.acceptAny(); err != nil || fd >= 0 {
					return fmt.Errorf("at the listener: %w", err)
				}
				continue
			}
			p, side := s.pairs[e.Fd/2], int(e.Fd&1)
			n, err := unix.Read(p.fd[side], readBuffer[:])
			switch {
			case err == unix.EINTR || err == unix.EAGAIN:
			case err != nil || n == 0:
				fmt.Fprintf(os.Stderr, "session %d lost on side %d: %v\n", e.Fd/2, side, err)
				if p.dir >= 0 { // both sides end
					p.dir = -1
					st.Sessions--
				}
				unix.EpollCtl(s.epoll, unix.EPOLL_CTL_DEL, p.fd[side], nil)
			case side == server:
				return fmt.Errorf("unexpected at the server: %.80q", readBuffer[:n])
			default:
				for b := readBuffer[:n]; len(b) > 0; {
					payload, used, end := p.frame.next(b)
					if !end || p.frame.opcode() != opPing {
						return fmt.Errorf("not a ping: %.80q", b)
					}
					b = b[used:]
					if _, err := unix.Write(p.fd[client], appendFrame(nil, opPong, true, payload)); err != nil {
						return err
					}
					st.Pongs++
				}
			}
		}
	}
	return nil
}
