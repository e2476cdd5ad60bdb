package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

func healthcheck(ctx context.Context, p process) int {
	c, err := loadConfig(p.environ)
	if err != nil {
		return p.misconfigured(err)
	}
	if _, err := c.askAdmin(ctx, http.MethodGet, "/healthz", askTimeout); err != nil {
		return p.failed(err)
	}
	return exitOK
}

// requestReload tells the gateway that runs with the same configuration to reload, and
// prints its answer.
func requestReload(ctx context.Context, p process) int {
	c, err := loadConfig(p.environ)
	if err != nil {
		return p.misconfigured(err)
	}
	body, err := c.askAdmin(ctx, http.MethodPost, "/reload", askTimeout)
	if err != nil {
		return p.failed(err)
	}
	_, _ = p.stdout.Write(body)
	return exitOK
}

// failed prints an error of a command.
func (p process) failed(err error) int {
	fmt.Fprintf(p.stderr, "xmppgate: %v\n", err)
	return exitFailed
}

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 64 << 10

// askTimeout bounds a request that is answered at once.
const askTimeout = 2 * time.Second

// askAdmin sends a request to the admin endpoints of the gateway that runs with the
// same configuration, and returns its answer.
func (c *config) askAdmin(ctx context.Context, method, path string, timeout time.Duration) (body []byte, err error) {
	response, err := c.requestAdmin(ctx, method, path, timeout)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(io.LimitReader(response.Body, maxAnswer))
}

// requestAdmin does so and returns an answer that is a success. timeout bounds it with its
// body; zero means that it may take for ever.
func (c *config) requestAdmin(ctx context.Context, method, path string, timeout time.Duration) (*http.Response, error) {
	if len(c.adminListeners) == 0 {
		return nil, errors.New(prefix + "ADMIN_LISTEN is empty: there is no admin listener to ask")
	}
	admin := c.adminListeners[0]
	client := &http.Client{
		Timeout: timeout,
		// Ignores HTTP_PROXY. The dialer takes ":9280" and "0.0.0.0:9280" as
		// this machine.
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, admin.network, admin.name)
			},
		},
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, nil)
	if err != nil {
		return nil, err
	}
	if c.AdminTokenFile != "" && method != http.MethodGet {
		token, err := readToken(c.AdminTokenFile)
		if err != nil {
			return nil, err
		}
		request.Header.Set("Authorization", "Bearer "+string(token))
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode/100 != 2 {
		defer response.Body.Close()
		body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
		if err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%s: %s: %s", path, response.Status, strings.TrimSpace(string(body)))
	}
	return response, nil
}
