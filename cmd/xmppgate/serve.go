package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/signal"
	"runtime"
	"sync"
	"syscall"

	"xmppgate/cmd/xmppgate/internal/logqueue"
	"xmppgate/proxy"
)

// serve is the default command: it runs the gateway.
func serve(ctx context.Context, p process) int {
	c, err := loadConfig(p.environ)
	if err != nil {
		return p.misconfigured(err)
	}
	if !c.Profile {
		runtime.MemProfileRate = 0 // saves the memory of a profile that cannot be requested
	}
	// A log whose reader is gone must not end the process.
	signal.Ignore(syscall.SIGPIPE)
	newHandler := logHandlers(logFormatOf(c.LogFormat, p), c.LogLevel, terminal(p.stderr) && p.environ["NO_COLOR"] == "")
	lines := logqueue.New(p.stderr, func(lost uint64) []byte { return lostReport(newHandler, lost) })
	defer lines.Close(logTimeout)
	log := slog.New(newHandler(lines))
	for _, warning := range c.warnings() {
		log.Warn(warning)
	}
	if err := runGateway(ctx, c, log, lines.Lost); err != nil {
		log.Error("xmppgate failed", "error", err)
		return exitFailed
	}
	return exitOK
}

// runGateway runs a gateway until ctx ends and its sessions are drained. It
// returns nil when every session has ended in time.
func runGateway(ctx context.Context, c *config, log *slog.Logger, logLinesLost func() uint64) error {
	d := newDrain()
	defer context.AfterFunc(ctx, d.begin)()

	b, files := readBuild(), descriptorLimit()
	o := &observer{log: log}
	router, err := c.newRouter(o)
	if err != nil {
		return err
	}
	sessions := sessionLimit(c.MaxSessions, files)
	gateway := &proxy.Gateway{Config: proxy.Config{
		Dial:                router.Connect,
		Static:              router.Static,
		SeeOther:            c.seeOther,
		ChannelBinding:      channelBindings[c.ChannelBinding],
		StripBindingOverTLS: c.ChannelBinding == channelBindingAuto,
		HideExternal:        c.hidesExternal(),
		ClientAddress:       c.clientAddress,
		Domains:             c.domains,
		Paths:               c.Path,
		AllowedOrigins:      c.allowedOrigins,
		MaxSessions:         sessions,
		MaxUnauthenticated:  shareOf(sessions, 3, 4, c.MaxUnauthenticated),
		NetworkLimits:       c.networkLimits(sessions),
		AuthTimeout:         c.AuthTimeout,
		MaxSessionAge:       c.MaxSessionAge,
		MaxStanza:           c.MaxStanzaBytes,
		MaxServerStanza:     c.MaxServerStanzaBytes,
		PingInterval:        c.PingInterval,
		Loop:                c.Loop,
		Observer:            o,
		Log:                 log,
	}}
	m := newMetrics(source{gateway, router}, b, gateway.MaxSessions, c.ConnectionMetricsLimit, d.begun, logLinesLost)
	o.Metrics = m

	clientListeners, err := listenAll("LISTEN", c.listeners)
	if err != nil {
		return err
	}
	defer closeAll(clientListeners)
	adminListeners, err := listenAll("ADMIN_LISTEN", c.adminListeners)
	if err != nil {
		return err
	}
	adminServer := newAdminServer(&admin{
		gateway:     source{gateway, router},
		servers:     router,
		drain:       d,
		access:      c.newAccess(log),
		metrics:     m.Handler(),
		connections: m.ConnectionsHandler(),
		limit:       c.ConnectionMetricsLimit,
		profile:     c.Profile,
	}, log)

	// A listener that ends before the drain has failed.
	ended := make(chan error, len(clientListeners)+len(adminListeners))
	var running sync.WaitGroup
	for _, l := range clientListeners {
		running.Go(func() { ended <- gateway.Serve(l) })
	}
	for _, l := range adminListeners {
		running.Go(func() { ended <- adminServer.Serve(l) })
	}
	// Sessions go on during the drain, after ctx has ended.
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	running.Go(func() { returnMemory(background, gateway.SessionsStarted) })
	running.Go(func() { router.Run(background) })
	log.Info("serving", "version", b.version, "listen", addresses(clientListeners), "upstream", serverNames(router),
		"admin", addresses(adminListeners), "max_sessions", gateway.MaxSessions, "open_files", files)

	var failure error
	delay := c.DrainDelay
	select {
	case <-d.started:
	case err := <-ended:
		failure = fmt.Errorf("a listener ended: %w", err)
		delay = 0 // nobody comes any more
		d.begin()
	}
	drainErr := d.run(ctx, gateway, delay, c.DrainTimeout, log)
	// After /drain the process stays until a signal comes: if it exited by
	// itself, its supervisor would start it again.
	if failure == nil {
		<-ctx.Done()
	}
	_ = adminServer.Close()
	closeAll(clientListeners)
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
