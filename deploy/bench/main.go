// Command bench compares xmppgate with its peers, each installed and set up
// alike, in turns on the same machine, and writes RESULTS.md.
//
//	go run .            everything, about 25 minutes; writes results.json and RESULTS.md
//	go run . -short     everything with few rounds, about 5 minutes; prints only
//	go run . -only X    one scenario, or several with commas
//	go run . -report    RESULTS.md and the tables in README.md and docs/benchmarks.md, from results.json
//
// churn takes an hour, crowd a quarter of it, and half-million a third: they run only when
// named.
package main

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const gate = "xmppgate"

var (
	short     = flag.Bool("short", false, "few rounds; print the results instead of writing them")
	write     = flag.Bool("write", false, "with -short, write the results all the same")
	only      = flag.String("only", "", "scenarios to run, comma separated")
	rewrite   = flag.Bool("report", false, "write RESULTS.md and the tables in README.md and docs/benchmarks.md, and run nothing")
	gateway   = flag.String("gateway", "", "the xmppgate to measure instead of building one")
	partAt    = flag.Int("part", 0, "be a part of crowd, with ports from this one on; for itself only")
	pingAfter = flag.Duration("ping", 30*time.Second, "how long the gateway of such a part waits before it pings; for itself only")
	profile   = flag.Bool("profile", false, "let xmppgate serve profiles, and print where")
)

// A scenario is measured in one go, with all systems alive side by side.
type scenario struct {
	name, title string
	text        string
	run         func(*bench, *recorder) error
	named       bool // runs only if named
}

// A bench is what all scenarios share.
type bench struct {
	dir     string
	gateway string
}

func (b *bench) rounds(full, few int) int {
	if *short {
		return few
	}
	return full
}

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	if *partAt != 0 {
		return runPart(*partAt)
	}
	res, err := readResults()
	if err != nil {
		return err
	}
	if *rewrite {
		if err := writeResults(res); err != nil {
			return err
		}
		return writePages(res)
	}
	names, selected := []string{}, []string{}
	for _, s := range scenarios {
		names = append(names, s.name)
		if !s.named {
			selected = append(selected, s.name)
		}
	}
	if *only != "" {
		selected = strings.Split(*only, ",")
	}
	for _, s := range selected {
		if !slices.Contains(names, s) {
			return fmt.Errorf("no scenario %q; there are %s", s, strings.Join(names, ", "))
		}
	}
	if out, err := exec.Command("./setup.sh").CombinedOutput(); err != nil {
		return fmt.Errorf("setup.sh: %w: %s", err, out)
	}
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	defer stopAll()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	interrupted := context.AfterFunc(ctx, func() {
		fmt.Fprintln(os.Stderr, "bench: interrupted")
		stopAll()
		os.RemoveAll(dir)
		os.Exit(1)
	})
	defer stop()
	defer interrupted()
	b := &bench{dir: dir, gateway: *gateway}
	if b.gateway == "" {
		b.gateway = filepath.Join(dir, gate)
		build := exec.Command("go", "build", "-pgo=cmd/xmppgate/release.pgo", "-o", b.gateway, "./cmd/xmppgate") // as the Dockerfile does
		build.Dir = "../.."
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("go build: %w: %s", err, out)
		}
	}
	versions, ran := versions(), results{}
	for _, s := range scenarios {
		if !slices.Contains(selected, s.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "%s %s\n", time.Now().Format(time.TimeOnly), s.name)
		r := &recorder{}
		done := make(chan error)
		go func() { done <- s.run(b, r) }() // scenarios pin the thread they run on
		if err := <-done; err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if res, err = readResults(); err != nil { // another run may have ended meanwhile
			return err
		}
		res[s.name] = result{
			Date:     time.Now().UTC().Format(time.DateOnly),
			Command:  command(),
			Versions: versions,
			Cells:    r.cells(),
		}
		stopAll()
		ran[s.name] = res[s.name]
		if *short && !*write {
			fmt.Println(renderScenario(s, res[s.name]))
		} else if err := writeResults(res); err != nil {
			return err
		}
	}
	if *short && !*write {
		fmt.Println(summary(ran))
	}
	return nil
}

// command is what repeats this run.
func command() string {
	c := "go run ."
	if *short {
		c += " -short -write"
	}
	if *gateway != "" {
		c += " -gateway FILE"
	}
	if *only != "" {
		c += " -only " + *only
	}
	return c
}

// shuffled is a random order of all.
func shuffled[T any](all []T) []T {
	all = slices.Clone(all)
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// A recorder keeps one sample for each case, round and system.
type recorder struct {
	order []string
	units map[string]string
	data  map[string]map[string][]float64
}

func (r *recorder) add(name, unit string, round int, system string, v float64) {
	if r.data == nil {
		r.data, r.units = map[string]map[string][]float64{}, map[string]string{}
	}
	if r.data[name] == nil {
		r.order = append(r.order, name)
		r.data[name], r.units[name] = map[string][]float64{}, unit
	}
	if len(r.data[name][system]) != round {
		panic("a round without a sample of " + system)
	}
	r.data[name][system] = append(r.data[name][system], v)
}

func (r *recorder) cells() (all []cell) {
	for _, name := range r.order {
		c := cell{Case: name, Unit: r.units[name], Values: map[string]spread{}, Ratios: map[string]spread{}}
		ours := r.data[name][gate]
		for system, theirs := range r.data[name] {
			c.Values[system] = spreadOf(theirs)
			if system == gate {
				continue
			}
			ratios := []float64{}
			for i := range ours {
				ratios = append(ratios, ours[i]/theirs[i])
			}
			c.Ratios[system] = spreadOf(ratios)
		}
		all = append(all, c)
	}
	return all
}

func spreadOf(v []float64) spread {
	v = slices.Clone(v)
	slices.Sort(v)
	at := func(q float64) float64 {
		i := q * float64(len(v)-1)
		lo := int(i)
		hi := min(lo+1, len(v)-1)
		return v[lo] + (v[hi]-v[lo])*(i-float64(lo))
	}
	return spread{at(.1), at(.5), at(.9)}
}

func versions() map[string]string {
	v := map[string]string{}
	first := func(name string, args ...string) string {
		out, _ := exec.Command(name, args...).CombinedOutput()
		line, _, _ := strings.Cut(string(out), "\n")
		return strings.TrimSpace(line)
	}
	v["xmppgate"] = first("git", "log", "-1", "--format=%h", "--", "../../cmd", "../../proxy", "../../framing", "../../metrics")
	if *gateway != "" {
		v["xmppgate"] = "as given by -gateway" // it need not be what lies here
	}
	v["Go"] = strings.TrimPrefix(first("go", "version"), "go version ")
	for _, p := range []string{"haproxy", "nginx", "prosody", "ejabberd", "erlang-base"} {
		v[p] = first("dpkg-query", "-W", "-f", "${Version}", p)
	}
	v["kernel"] = first("uname", "-r")
	return v
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
