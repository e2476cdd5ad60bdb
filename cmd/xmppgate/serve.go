package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"xmppgate/cmd/xmppgate/internal/logqueue"
	"xmppgate/proxy"
	"xmppgate/proxy/certfiles"
)

// serve is the default command: it runs the gateway.
func serve(ctx context.Context, p process) int {
	before, err := inherit(p.environ)
	if err != nil {
		before.refuse(err)
		fmt.Fprintf(p.stderr, "xmppgate: take over: %v\n", err)
		return exitFailed
	}
	c, err := loadConfig(p.environ)
	if err != nil {
		before.refuse(err)
		return p.misconfigured(err)
	}
	profile(c.Profile)
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	boundMemory(p.environ)
	limitBuffers()
	// A log whose reader is gone must not end the process.
	signal.Ignore(syscall.SIGPIPE)
	level := new(slog.LevelVar)
	level.Set(c.LogLevel)
	newHandler := logHandlers(logFormatOf(c.LogFormat, p), level, terminal(p.stderr) && p.environ["NO_COLOR"] == "")
	lines := logqueue.New(p.stderr, func(lost uint64) []byte { return lostReport(newHandler, lost) })
	defer lines.Close(logTimeout)
	log := slog.New(newHandler(lines))
	for _, warning := range c.warnings() {
		log.Warn(warning)
	}
	if err := runGateway(ctx, &service{environ: p.environ, start: c, log: log, level: level}, before, hangups, lines.Lost); err != nil {
		before.refuse(err)
		log.Error("xmppgate failed", "error", err)
		return exitFailed
	}
	return exitOK
}

// runGateway runs the gateway of s until ctx ends and its sessions are drained. It
// reloads whenever a signal comes from hangups. It returns nil when every session has
// ended in time, or goes on in another process. It takes over from before, unless that
// is nil.
func runGateway(ctx context.Context, s *service, before *predecessor, hangups <-chan os.Signal, logLinesLost func() uint64) error {
	d := newDrain()
	defer context.AfterFunc(ctx, d.begin)()
	s.drain = d

	c, log := s.start, s.log
	s.current.Store(c)
	s.files = descriptorLimit()
	s.observer = &observer{log: log}
	var err error
	if s.router, err = c.newRouter(s.observer); err != nil {
		return err
	}
	router := s.router
	s.gateway = &proxy.Gateway{Config: s.gatewayConfig(c)}
	gateway := s.gateway
	b := readBuild()
	from := source{gateway, router, func() *certfiles.Store { return s.config().certificates }, c.acme}
	s.metrics = newMetrics(from, b, func() int { return s.maxSessions(s.config()) },
		func() int { return s.config().ConnectionMetricsLimit }, d.begun, logLinesLost)
	s.observer.Metrics = s.metrics

	s.denyList = &denyFile{log: log, deny: gateway.Deny, count: s.metrics.DenyListRead}
	s.denyList.look(c.DenyFile)

	systemd, err := systemdSockets()
	if err != nil {
		return err
	}
	held := func(variable string, a listenAddress) (net.Listener, error) {
		if l, borrowed, err := before.listener(variable, a); l != nil || err != nil {
			systemd.borrowed[l] = borrowed
			return l, err
		}
		return systemd.take(a), nil
	}
	clientListeners, err := listenAll("LISTEN", c.listeners, held)
	if err != nil {
		return err
	}
	defer closeAll(clientListeners)
	adminListeners, err := listenAll("ADMIN_LISTEN", c.adminListeners, held)
	if err != nil {
		return err
	}
	acmeListeners, err := listenAll("ACME_LISTEN", c.acmeListeners, held)
	if err != nil {
		return err
	}
	defer closeAll(acmeListeners)
	if err := systemd.unused(); err != nil {
		return err
	}
	u := newUpgrader(s.environ, gateway, func() time.Duration { return s.config().DrainTimeout }, log)
	u.hold("LISTEN", c.listeners, clientListeners, systemd.borrowed)
	u.hold("ADMIN_LISTEN", c.adminListeners, adminListeners, systemd.borrowed)
	u.hold("ACME_LISTEN", c.acmeListeners, acmeListeners, systemd.borrowed)
	var succession error
	if before != nil {
		succession = gateway.Succeed(before.Succession)
	}
	page := s.newStatus(b)
	adminServer := newAdminServer(&admin{
		gateway:     gateway,
		status:      page,
		servers:     router,
		overload:    gateway.Overload,
		drain:       d,
		access:      &access{config: s.config, page: page, log: log},
		metrics:     s.metrics.Handler(),
		connections: s.metrics.ConnectionsHandler(),
		config:      s.config,
		reload:      s.reload,
		tap:         gateway.Tap,
		upgrade:     u.upgrade,
	}, log)

	// A listener that ends before the drain has failed.
	ended := make(chan error, len(clientListeners)+len(adminListeners))
	var running sync.WaitGroup
	for i, l := range clientListeners {
		serve := gateway.Serve
		if c.speaksTLS(c.listeners[i]) {
			serve = gateway.ServeTLS
		}
		running.Go(func() {
			if err := serve(l); err != nil { // else it was to end
				ended <- err
			}
		})
	}
	for _, l := range adminListeners {
		running.Go(func() { ended <- adminServer.Serve(boundListener(l)) })
	}
	// Sessions go on during the drain, after ctx has ended.
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	running.Go(func() { returnMemory(background, gateway.SessionsStarted) })
	running.Go(func() { router.Run(background) })
	running.Go(func() { s.denyList.run(background, func() string { return s.config().DenyFile }) })
	running.Go(func() { newOverload(s.files, gateway, log).run(background) })
	running.Go(func() { s.watchCertificates(background) })
	if c.acme != nil {
		running.Go(func() { s.runACME(background, acmeListeners) })
	}
	if len(adminListeners) > 0 {
		running.Go(func() { page.Run(background) })
	}
	running.Go(func() {
		for {
			select {
			case <-hangups:
				notifyReloading()
				_, _ = s.reload() // which logs what is wrong
				notifyReady()
			case <-background.Done():
				return
			}
		}
	})
	log.Info("serving", "version", b.version, "listen", addresses(clientListeners), "upstream", serverNames(router),
		"admin", addresses(adminListeners), "max_sessions", gateway.MaxSessions, "open_files", s.files)

	if before == nil {
		notifyReady()
	} else {
		running.Go(func() { takeOver(before, gateway, router.Join, succession, log) })
	}

	var failure error
	delay := time.Duration(0) // after a listener has ended nobody comes any more
	select {
	case <-d.started:
		delay = s.config().DrainDelay
	case err := <-ended:
		failure = fmt.Errorf("a listener ended: %w", err)
		d.begin()
	case <-u.begun:
		d.reason = "a new process is in charge"
		shutDown(adminServer)
		u.await(ctx)
	}
	if !u.succeeded() {
		notifyStopping()
	}
	drainErr := d.run(ctx, gateway, delay, s.config().DrainTimeout, log)
	// After /drain the process stays until a signal comes: if it exited by
	// itself, its supervisor would start it again.
	if failure == nil && !u.succeeded() {
		<-ctx.Done()
	}
	_ = adminServer.Close()
	closeAll(clientListeners)
	before.close()
	stop()
	running.Wait()
	return errors.Join(failure, drainErr)
}

// sessionLimit returns how many sessions may live at once: as configured, or half
// of the descriptors, because each session takes two. Zero means no limit, for
// descriptors and for the result.
func sessionLimit(configured int, descriptors uint64) int {
	// For connections that get status 503, listeners, admin connections,
	// name resolution and parallel dials.
	const reserve = 384
	if configured > 0 || descriptors == 0 {
		return configured
	}
	if descriptors < reserve+2 {
		return 1
	}
	return int((descriptors - reserve) / 2)
}
