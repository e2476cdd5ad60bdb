package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"xmppgate/proxy"
)

// This file has the two ends of a trace: POST /tap, and "xmppgate tap", which asks for it.

// A tapLine is a line of the answer of /tap.
type tapLine struct {
	Time    time.Time         `json:"time"`
	Session uint64            `json:"session"`
	From    string            `json:"from,omitempty"`
	Text    string            `json:"text"`
	Attrs   map[string]string `json:"attrs,omitempty"`
	Size    int               `json:"size,omitempty"`
	Lost    int               `json:"lost,omitempty"`
}

// Times of a trace.
const (
	maxTapTime     = time.Hour
	tapIdleTime    = 15 * time.Second // until an empty line shows that there is somebody
	tapWriteTime   = 10 * time.Second
	maxTapLineSize = 64 << 10 // bytes that are read of one
)

// trace answers POST /tap with a line of JSON for each entry, until the one session is over
// or the client has left. It needs the token, if there is one, although it changes nothing.
func (a *admin) trace(w http.ResponseWriter, r *http.Request) {
	q, err := tapQuery(r.Form)
	if err != nil {
		answer(w, http.StatusBadRequest, err.Error()+"\n")
		return
	}
	tap, err := a.tap(q)
	switch {
	case errors.Is(err, proxy.ErrNoSession):
		answer(w, http.StatusNotFound, err.Error()+"\n")
		return
	case err != nil:
		answer(w, http.StatusServiceUnavailable, err.Error()+"\n")
		return
	}
	defer tap.Close()
	ctx, cancel := context.WithTimeout(r.Context(), maxTapTime)
	defer cancel()
	w.Header().Set("Content-Type", "application/jsonl")
	control := http.NewResponseController(w)
	_ = control.Flush()                      // the trace has begun
	_ = control.SetReadDeadline(time.Time{}) // the end of the request is not the end of the answer; tests have no connection
	for {
		wait, stop := context.WithTimeout(ctx, tapIdleTime)
		e, err := tap.Next(wait)
		stop()
		_ = control.SetWriteDeadline(time.Now().Add(tapWriteTime))
		switch {
		case err == nil:
			line := tapLine{Time: e.Time, Session: e.Session, From: e.From, Text: e.Text, Size: e.Size, Lost: e.Lost}
			for _, attr := range e.Attrs {
				if line.Attrs == nil {
					line.Attrs = make(map[string]string)
				}
				line.Attrs[attr.Key] = attr.Value.String()
			}
			err = json.NewEncoder(w).Encode(line)
		case errors.Is(err, io.EOF) || ctx.Err() != nil:
			return
		default:
			_, err = io.WriteString(w, "\n")
		}
		if err = errors.Join(err, control.Flush()); err != nil {
			return // the client has left
		}
	}
}

// tapQuery returns what the parameters of /tap ask for.
func tapQuery(values url.Values) (q proxy.TapQuery, err error) {
	for name := range values {
		value := values.Get(name)
		switch name {
		case "id":
			if q.ID, err = strconv.ParseUint(value, 10, 64); err != nil || q.ID == 0 {
				return q, errors.New("id must be the number of a session, as in /connections and the log")
			}
		case "network":
			if q.Network, err = proxy.ParseNetwork(value); err != nil {
				return q, fmt.Errorf("network: %w", err)
			}
		case "domain":
			q.Domain = proxy.NormalDomain(value)
		default:
			return q, fmt.Errorf("%q is not a parameter: there are id, network, domain", name)
		}
	}
	switch many := q.Network.IsValid() || q.Domain != ""; {
	case q.ID != 0 && many:
		return q, errors.New("id stands alone: a network and a domain select sessions to come")
	case q.ID == 0 && !many:
		return q, errors.New("which session? Give an id, a network or a domain")
	}
	return q, nil
}

const tapUsage = `Usage: xmppgate tap [--html FILE] ID
       xmppgate tap [--html FILE] [--network NETWORK] [--domain DOMAIN]

Shows what passes through a session of the running gateway, or through sessions that begin from
now on, until Ctrl-C. Names of elements and attributes are shown; text and values are not, but
their length. /connections and the log have the IDs. --html writes a page to send to somebody.
`

// runTap prints a trace.
func runTap(ctx context.Context, p process) int {
	flags := flag.NewFlagSet("tap", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	network, domain, page := flags.String("network", "", ""), flags.String("domain", "", ""), flags.String("html", "", "")
	values := url.Values{}
	switch err := flags.Parse(p.args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(p.stdout, tapUsage)
		return exitOK
	case err != nil:
		return p.usage("wrong flag", err.Error(), nil)
	case flags.NArg() > 1:
		return p.usage("unexpected argument", flags.Arg(1), nil)
	case flags.NArg() == 1:
		values.Set("id", flags.Arg(0))
	}
	for name, value := range map[string]string{"network": *network, "domain": *domain} {
		if value != "" {
			values.Set(name, value)
		}
	}
	if _, err := tapQuery(values); err != nil {
		fmt.Fprintf(p.stderr, "xmppgate: %v\n%s", err, tapUsage)
		return exitUsage
	}
	c, err := loadConfig(p.environ)
	if err != nil {
		return p.misconfigured(err)
	}
	if err := c.printTap(ctx, p, values, *page); err != nil {
		return p.failed(err)
	}
	return exitOK
}

// printTap asks for a trace and prints it, and writes it to a page if that has a name.
func (c *config) printTap(ctx context.Context, p process, values url.Values, page string) error {
	response, err := c.requestAdmin(ctx, http.MethodPost, "/tap?"+values.Encode(), 0)
	switch {
	case ctx.Err() != nil:
		return nil // Ctrl-C is how a trace ends
	case err != nil:
		return err
	}
	defer response.Body.Close()
	var html *os.File
	if page != "" {
		if html, err = os.OpenFile(page, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600); err != nil {
			return err
		}
		defer html.Close()
		if err := tapPage.ExecuteTemplate(html, "begin", map[string]any{"Query": values.Encode(), "Begun": time.Now().Format(time.RFC1123), "Build": readBuild().String()}); err != nil {
			return err
		}
	}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, maxTapLineSize)
	for lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue
		}
		var line tapLine
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			return fmt.Errorf("/tap: %w", err)
		}
		if line.Lost > 0 {
			fmt.Fprintf(p.stdout, "%s  %d lines are missing: they came faster than they were read\n", line.Clock(), line.Lost)
		}
		fmt.Fprintf(p.stdout, "%s  %d  %-7s %s\n", line.Clock(), line.Session, line.Who(), line.What())
		if html != nil {
			if err := tapPage.ExecuteTemplate(html, "line", line); err != nil {
				return err
			}
		}
	}
	if html != nil {
		if err := tapPage.ExecuteTemplate(html, "end", nil); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return lines.Err()
}

// Clock is the time of day.
func (l tapLine) Clock() string { return l.Time.Local().Format("15:04:05.000") }

// Who has sent it; a step of the session has --.
func (l tapLine) Who() string {
	if l.From == "" {
		return "--"
	}
	return l.From
}

// What is the text with what belongs to it.
func (l tapLine) What() string {
	text := l.Text
	for _, name := range tapAttrs {
		if value, ok := l.Attrs[name]; ok && value != "" {
			text += " " + name + "=" + value
		}
	}
	return text
}

// tapAttrs is the order in which attributes of steps are shown.
var tapAttrs = []string{"remote", "domain", "tls", "sasl", "mechanism", "result", "ending", "age"}

// tapPage is a page that needs nothing else. Its parts are written one after another, so that
// it can be read if the end is missing.
var tapPage = template.Must(template.New("").Parse(`{{define "begin"}}<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>xmppgate trace</title>
<style>
:root{color-scheme:light dark}
body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.15rem .6rem;border-bottom:1px solid #8884}
td:last-child{font-family:ui-monospace,monospace;overflow-wrap:anywhere}
.client td:nth-child(3){color:#06c}.server td:nth-child(3){color:#a50}.step td{opacity:.75}
</style>
<h1>xmppgate trace</h1>
<p>{{.Query}}, from {{.Begun}}, {{.Build}}. Text and values are replaced by their length in bytes.</p>
<table><tr><th>time<th>session<th>from<th>what
{{end}}{{define "line"}}{{if .Lost}}<tr class="step"><td>{{.Clock}}<td><td>--<td>{{.Lost}} lines are missing
{{end}}<tr class="{{or .From "step"}}"><td>{{.Clock}}<td>{{.Session}}<td>{{.Who}}<td>{{.What}}
{{end}}{{define "end"}}</table></html>
{{end}}`))
