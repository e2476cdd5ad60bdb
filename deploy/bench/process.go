package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A process is a program under test, with its children.
type process struct {
	cmd   *exec.Cmd
	done  chan struct{}
	log   string
	admin int // port; of xmppgate only
}

var (
	started   []*process
	startedMu sync.Mutex
)

// start runs a program; cpu pins it unless empty. Its output goes to a file
// in dir.
func start(dir, cpu string, env []string, name string, args ...string) (*process, error) {
	if cpu != "" {
		args = append([]string{"-c", cpu, name}, args...)
		name = "taskset"
	}
	log, err := os.CreateTemp(dir, "log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, append(os.Environ(), env...), log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{}), log: log.Name()}
	go func() {
		cmd.Wait()
		close(p.done)
	}()
	startedMu.Lock()
	started = append(started, p)
	startedMu.Unlock()
	return p, nil
}

// ready waits until the program listens on a port.
func (p *process) ready(port int) error {
	for range 600 {
		if c, err := net.Dial("tcp", loopback(port)); err == nil {
			return c.Close()
		}
		select {
		case <-p.done:
			out, _ := os.ReadFile(p.log)
			return fmt.Errorf("%s ended: %s", p.cmd, out)
		case <-time.After(50 * time.Millisecond):
		}
	}
	return fmt.Errorf("%s does not listen on port %d", p.cmd, port)
}

func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(2 * time.Second):
		p.cmd.Process.Kill()
		<-p.done
	}
}

func stopAll() {
	startedMu.Lock()
	defer startedMu.Unlock()
	for _, p := range started {
		p.stop()
	}
	started = nil
}

// pids are the process and its descendants.
func (p *process) pids() []int {
	all := []int{p.cmd.Process.Pid}
	for i := 0; i < len(all); i++ {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", all[i]))
		for _, f := range files {
			b, _ := os.ReadFile(f)
			for s := range strings.FieldsSeq(string(b)) {
				n, _ := strconv.Atoi(s)
				all = append(all, n)
			}
		}
	}
	return all
}

// cpu is the CPU time that processes have used, to the nanosecond.
func cpu(ps ...*process) (sum time.Duration) {
	for _, p := range ps {
		for _, pid := range p.pids() {
			tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
			for _, t := range tasks {
				b, _ := os.ReadFile(t)
				used, _, _ := bytes.Cut(b, []byte(" "))
				n, _ := strconv.ParseInt(string(used), 10, 64)
				sum += time.Duration(n)
			}
		}
	}
	return sum
}

// rss is the resident memory of processes in KiB.
func rss(ps ...*process) (sum float64) {
	for _, p := range ps {
		for _, pid := range p.pids() {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if _, after, ok := strings.Cut(string(b), "VmRSS:"); ok {
				n, _ := strconv.Atoi(strings.Fields(after)[0])
				sum += float64(n)
			}
		}
	}
	return sum
}

// descriptors is the number of files that a process has open.
func (p *process) descriptors() int {
	files, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	return len(files)
}

// metric is the sum of a metric of xmppgate over all its labels.
func (p *process) metric(name string) (sum float64, err error) {
	res, err := http.Get("http://" + loopback(p.admin) + "/metrics")
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), name)
		if ok && rest != "" && strings.ContainsRune(" {", rune(rest[0])) {
			v, _ := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
			sum += v
		}
	}
	return sum, lines.Err()
}

func loopback(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

// freePort is a port that nobody listens on, below those that the kernel
// gives to outgoing connections.
func freePort() (int, error) {
	for range 1000 {
		nextPort++
		if l, err := net.Listen("tcp", loopback(nextPort)); err == nil {
			return nextPort, l.Close()
		}
	}
	return 0, errors.New("no free port")
}

var nextPort = 21000 + os.Getpid()%4000

// production is what startGateway takes to leave xmppgate as it comes, but for
// the stanzas' size.
var production = []string{"GOMAXPROCS=", "XMPPGATE_PING_INTERVAL=30s"}

// startGateway runs xmppgate between a port of its own and an upstream. What
// env says goes before what the comparisons need. There {listen} is the address of that port.
func startGateway(dir, cpu, binary string, upstream int, env ...string) (*process, int, error) {
	port, err := freePort()
	if err != nil {
		return nil, 0, err
	}
	admin, err := freePort()
	if err != nil {
		return nil, 0, err
	}
	env = slices.Clone(env)
	for i := range env {
		env[i] = strings.ReplaceAll(env[i], "{listen}", loopback(port))
	}
	p, err := start(dir, cpu, append([]string{
		"GOMAXPROCS=1",
		"XMPPGATE_LISTEN=" + loopback(port),
		"XMPPGATE_UPSTREAM=tcp://" + loopback(upstream),
		"XMPPGATE_ADMIN_LISTEN=" + loopback(admin),
		"XMPPGATE_LOG_LEVEL=error",
		"XMPPGATE_PING_INTERVAL=1h", // the peers send none
		"XMPPGATE_MAX_STANZA_BYTES=1048576",
		"XMPPGATE_PROFILE=" + strconv.FormatBool(*profile),
	}, env...), binary)
	if err != nil {
		return nil, 0, err
	}
	p.admin = admin
	if *profile {
		fmt.Fprintf(os.Stderr, "profile: http://%s/debug/pprof/ of process %d\n", loopback(admin), p.cmd.Process.Pid)
	}
	return p, port, p.ready(port)
}

// A haproxy says how HAProxy is to run.
type haproxy struct {
	mode         string // tcp or http
	threads      int
	bind, server string // more words for these lines
}

const haproxyConfig = `global
  nbthread %d
  maxconn 9900
defaults
  mode %s
  timeout connect 10s
  timeout client 1h
  timeout server 1h
  timeout tunnel 1h
listen relay
  bind 127.0.0.1:%d %s
  server upstream 127.0.0.1:%d %s
`

func startHAProxy(dir, cpu string, h haproxy, upstream int) (*process, int, error) {
	port, err := freePort()
	if err != nil {
		return nil, 0, err
	}
	file := filepath.Join(dir, fmt.Sprintf("haproxy-%d.cfg", port))
	text := fmt.Appendf(nil, haproxyConfig, max(h.threads, 1), h.mode, port, h.bind, upstream, h.server)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, 0, err
	}
	p, err := start(dir, cpu, nil, "haproxy", "-db", "-f", file)
	if err != nil {
		return nil, 0, err
	}
	return p, port, p.ready(port)
}

const nginxConfig = `daemon off;
user root;
worker_processes 1;
worker_rlimit_nofile 20000;
pid %[1]s/nginx-%[2]d.pid;
error_log stderr crit;
events { worker_connections 19900; }
http {
  access_log off;
  client_body_temp_path %[1]s/body;
  proxy_temp_path %[1]s/proxy;
  fastcgi_temp_path %[1]s/fastcgi;
  scgi_temp_path %[1]s/scgi;
  uwsgi_temp_path %[1]s/uwsgi;
  server {
    listen 127.0.0.1:%[2]d backlog=4096;
    location / {
      proxy_pass http://127.0.0.1:%[3]d;
      proxy_http_version 1.1;
      proxy_set_header Host localhost;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection upgrade;
      proxy_read_timeout 1h;
      proxy_send_timeout 1h;
    }
  }
}
`

// startNginx runs nginx as a proxy for WebSockets.
func startNginx(dir, cpu string, upstream int) (*process, int, error) {
	port, err := freePort()
	if err != nil {
		return nil, 0, err
	}
	file := filepath.Join(dir, fmt.Sprintf("nginx-%d.conf", port))
	if err := os.WriteFile(file, fmt.Appendf(nil, nginxConfig, dir, port, upstream), 0o600); err != nil {
		return nil, 0, err
	}
	p, err := start(dir, cpu, nil, "nginx", "-p", dir, "-e", "stderr", "-c", file)
	if err != nil {
		return nil, 0, err
	}
	return p, port, p.ready(port)
}
