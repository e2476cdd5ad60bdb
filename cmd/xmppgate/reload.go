package main

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"xmppgate/metrics"
	"xmppgate/proxy"
	"xmppgate/proxy/upstream"
)

// A service is a gateway in a process, with its configuration.
type service struct {
	environ  map[string]string // of the process
	start    *config
	files    uint64 // that the process may open
	log      *slog.Logger
	level    *slog.LevelVar // of log
	observer *observer
	router   *upstream.Router
	gateway  *proxy.Gateway
	drain    *drain
	metrics  *metrics.Metrics
	denyList *denyFile

	current   atomic.Pointer[config]
	reloading sync.Mutex // held by reload
}

// config returns the configuration in force. What needs a consistent one calls it once.
func (s *service) config() *config { return s.current.Load() }

// gatewayConfig returns c for package proxy.
func (s *service) gatewayConfig(c *config) proxy.Config {
	sessions := s.maxSessions(c)
	return proxy.Config{
		Dial:                s.router.Connect,
		Static:              s.router.Static,
		SeeOther:            c.seeOther,
		ChannelBinding:      channelBindings[c.ChannelBinding],
		StripBindingOverTLS: c.ChannelBinding == channelBindingAuto,
		HideExternal:        c.hidesExternal(),
		ClientAddress:       c.clientAddress,
		Domains:             c.domains,
		Paths:               c.Path,
		PublicURL:           c.PublicURL,
		Ready:               func() bool { return !s.drain.begun() && s.router.Ready() == nil && s.gateway.Overload() == "" },
		AllowedOrigins:      c.allowedOrigins,
		MaxSessions:         sessions,
		MaxUnauthenticated:  shareOf(sessions, 3, 4, c.MaxUnauthenticated),
		NetworkLimits:       c.networkLimits(sessions),
		StanzaRate:          c.StanzaRate,
		ByteRate:            c.ByteRate,
		AuthTimeout:         c.AuthTimeout,
		MaxSessionAge:       c.MaxSessionAge,
		MaxStanza:           c.MaxStanzaBytes,
		MaxServerStanza:     c.MaxServerStanzaBytes,
		PingInterval:        c.PingInterval,
		Compression:         c.Compression == "on",
		CompressionMemory:   c.CompressionMemory,
		LogJIDs:             c.LogJIDs,
		Certificate:         c.certificate(s.start.acme),
		ACME:                s.start.acme != nil,
		Loop:                c.Loop,
		Observer:            s.observer,
		Log:                 s.log,
	}
}

func (s *service) maxSessions(c *config) int { return sessionLimit(c.MaxSessions, s.files) }

// reload reads the configuration again and puts it into force. The error joins one line
// for everything that is wrong with it; then the old one stays. notes are what the
// operator has to know of the new one.
func (s *service) reload() (notes []string, err error) {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	old := s.config()
	c, waiting, err := s.load()
	if err == nil {
		err = s.apply(c)
	}
	s.metrics.Reloaded(err == nil)
	if err != nil {
		s.log.Error("the configuration is wrong; the old one stays in force", "error", strings.ReplaceAll(err.Error(), "\n", "; "))
		return nil, err
	}
	for _, name := range waiting {
		notes = append(notes, name+": takes effect at the next start")
	}
	notes = append(notes, c.warnings()...)
	s.log.Info("configuration reloaded", "changed", strings.Join(c.differences(old), ","))
	for _, note := range notes {
		s.log.Warn(note)
	}
	return notes, nil
}

// load returns the configuration to put into force. waiting are the variables that only
// a start can change; they have their old values.
func (s *service) load() (c *config, waiting []string, err error) {
	found := findSettings(s.environ)
	if c, err = found.config(); err != nil {
		return nil, nil, err
	}
	for _, name := range c.differences(s.start) {
		if variableCalled(name).onlyStart || c.turnsTLS(name, s.start) {
			waiting = append(waiting, name)
		}
	}
	if waiting == nil {
		return c, nil, nil
	}
	// The others must also go with the old values.
	kept := found
	kept.values, kept.where = maps.Clone(found.values), maps.Clone(found.where)
	for _, name := range waiting {
		delete(kept.values, name)
		delete(kept.where, name)
		if value, ok := s.start.values[name]; ok {
			kept.values[name] = value
		}
	}
	if c, err = kept.config(); err != nil {
		return nil, nil, fmt.Errorf("%w\n%s: takes effect at the next start, and the rest does not go with the old value", err, strings.Join(waiting, ", "))
	}
	return c, waiting, nil
}

// apply puts c into force, or changes nothing.
func (s *service) apply(c *config) error {
	if err := s.router.Update(c.upstream); err != nil {
		return err
	}
	if err := s.gateway.Update(s.gatewayConfig(c)); err != nil {
		return errors.Join(err, s.router.Update(s.config().upstream))
	}
	s.level.Set(c.LogLevel)
	profile(c.Profile)
	s.current.Store(c)
	s.denyList.look(c.DenyFile)
	return nil
}

// profile turns the profile of memory on or off. It costs memory even if nobody asks
// for it, and shows only what was allocated while it was on.
func profile(on bool) {
	rate := 0
	if on {
		rate = 512 << 10 // the default of package runtime
	}
	if runtime.MemProfileRate != rate {
		runtime.MemProfileRate = rate
	}
}

// differences returns the variables that do not have the same value in c and in other.
func (c *config) differences(other *config) (names []string) {
	for _, v := range variables() {
		value := func(c *config) any { return reflect.ValueOf(*c).Field(v.field).Interface() }
		if !reflect.DeepEqual(value(c), value(other)) {
			names = append(names, v.name)
		}
	}
	return names
}

// handleReload answers POST /reload when the reload is over.
func (a *admin) handleReload(w http.ResponseWriter, _ *http.Request) {
	notes, err := a.reload()
	if err != nil {
		answer(w, http.StatusUnprocessableEntity, err.Error()+"\n")
		return
	}
	answer(w, http.StatusOK, strings.Join(append([]string{"reloaded"}, notes...), "\n")+"\n")
}
