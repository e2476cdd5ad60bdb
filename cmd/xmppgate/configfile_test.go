package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func writeFile(t *testing.T, text string) (name string) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// Lines as systemd and compose read them.
func TestConfigFile(t *testing.T) {
	for _, test := range []struct{ line, path, err string }{
		{"XMPPGATE_PATH=/a", "/a", ""},
		{"XMPPGATE_PATH=/a\r", "/a", ""},
		{"  XMPPGATE_PATH = /a  ", "/a", ""},
		{"export XMPPGATE_PATH=/a", "/a", ""},
		{"XMPPGATE_PATH='/a'", "/a", ""},
		{`XMPPGATE_PATH="/a,/b"`, "/a,/b", ""},
		{"XMPPGATE_PATH=/a # for old clients", "/a", ""},
		{"XMPPGATE_PATH=/a#b", "", `1: XMPPGATE_PATH="/a#b": `}, // no comment
		{"XMPPGATE_PATH=/a=b", "/a=b", ""},
		{"XMPPGATE_PATH=", "", ""},
		{"XMPPGATE_PATH=''", "", ""},
		{"# XMPPGATE_PATH=/a", "", ""},
		{"; XMPPGATE_PATH=/a", "", ""},
		{"\n\n \t\nXMPPGATE_PATH=/a", "/a", ""},
		{"\ufeffXMPPGATE_PATH=/a", "/a", ""},
		{"PATH=/a", "", ""},
		{"OTHER=$HOME\nXMPPGATE_PATH=/a", "/a", ""},
		{"OTHER=a\\\nXMPPGATE_PATH=/a", "/a", ""},
		{"XMPPGATE_PATH=/a\nXMPPGATE_PATH=/a", "", "2: XMPPGATE_PATH: it has a value in line 1: remove one of them"},
		{"XMPPGATE_CONFIG=/a", "", "1: XMPPGATE_CONFIG: set it in the environment: a file cannot say where it is"},
		{"\nXMPPGATE_PATH=/$a", "", "2: XMPPGATE_PATH: the value has a $, which some readers of such files take for the name of a variable: set it in the environment"},
		{`XMPPGATE_PATH="${a}"`, "", "1: XMPPGATE_PATH: the value has a $, which some readers of such files take for the name of a variable: set it in the environment"},
		{"XMPPGATE_PATH=/a,\\\n/b", "", "1: XMPPGATE_PATH: the line goes on behind a backslash, which not every reader of such files knows: write one line\n2: not KEY=value: write one variable a line; if the value has quotes, they end with it"},
		{"XMPPGATE_PATH", "", "1: not KEY=value: write one variable a line; if the value has quotes, they end with it"},
		{"XMPPGATE-PATH=/secret", "", "1: not KEY=value: write one variable a line; if the value has quotes, they end with it"},
		{"=/secret", "", "1: not KEY=value: write one variable a line; if the value has quotes, they end with it"},
		{"XMPPGATE_PATH='/secret", "", "1: not KEY=value: write one variable a line; if the value has quotes, they end with it"},
		{"XMPPGATE_PATH='/a' /secret", "", "1: not KEY=value: write one variable a line; if the value has quotes, they end with it"},
		{"[Service]", "", "1: not KEY=value: write one variable a line; if the value has quotes, they end with it"},
		{"XMPPGATE_PATHS=/secret", "", "1: XMPPGATE_PATHS: no such variable: did you mean XMPPGATE_PATH?"},
		{"XMPPGATE_PATH=nonsense", "", `1: XMPPGATE_PATH="nonsense": `},
	} {
		name := writeFile(t, test.line)
		environ := map[string]string{"XMPPGATE_CONFIG": name}
		c, err := loadConfig(environ)
		if test.err != "" {
			for want := range strings.SplitSeq(test.err, "\n") {
				if err == nil || !strings.Contains(err.Error(), name+":"+want) {
					t.Errorf("%q: %v, want %s", test.line, err, want)
				}
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("%q: the error quotes it: %v", test.line, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", test.line, err)
			continue
		}
		if test.path == "" {
			test.path = variableCalled("XMPPGATE_PATH").defaultValue
		}
		if c.Path.String() != test.path {
			t.Errorf("%q: %s, want %s", test.line, c.Path, test.path)
		}
		if len(environ) != 1 {
			t.Errorf("%q: the environment has become %v", test.line, environ)
		}
	}
}

// What the environment has comes first, and that is told if it matters.
func TestEnvironmentWins(t *testing.T) {
	name := writeFile(t, "XMPPGATE_PATH=/file\nXMPPGATE_ADMIN_LISTEN=127.0.0.1:1\nXMPPGATE_LOOP=goroutine\n")
	for _, test := range []struct {
		environ            map[string]string
		path, admin, warns string
	}{
		{nil, "/file", "127.0.0.1:1", ""},
		{map[string]string{"PATH": "/environ"}, "/environ", "127.0.0.1:1", "XMPPGATE_PATH: the value in " + name + " is not used, because the environment has another one"},
		{map[string]string{"PATH": "/file"}, "/file", "127.0.0.1:1", ""},
		{map[string]string{"PATH": ""}, "/file", "127.0.0.1:1", ""}, // as compose files write it
		{map[string]string{"ADMIN_LISTEN": ""}, "/file", "", "XMPPGATE_ADMIN_LISTEN: the value in " + name + " is not used, because the environment has another one"},
	} {
		environ := prefixed(test.environ)
		maps.Copy(environ, map[string]string{"XMPPGATE_CONFIG": name})
		c, err := loadConfig(environ)
		if err != nil {
			t.Fatal(err)
		}
		if c.Path.String() != test.path || c.AdminListen.String() != test.admin || c.Loop != "goroutine" {
			t.Errorf("%v: path %s, admin %s, loop %s", test.environ, c.Path, c.AdminListen, c.Loop)
		}
		if got := strings.Join(c.warnings(), "\n"); got != test.warns {
			t.Errorf("%v: warns %q", test.environ, got)
		}
	}
}

// A file that cannot be read is an error beside all others.
func TestConfigFileUnreadable(t *testing.T) {
	for _, test := range []struct{ file, err string }{
		{filepath.Join(t.TempDir(), "none"), "no such file"},
		{t.TempDir(), "is a directory"},
		{writeFile(t, strings.Repeat("#", maxConfigFile+1)), "is it the right one?"},
	} {
		_, err := loadConfig(map[string]string{"XMPPGATE_CONFIG": test.file, "XMPPGATE_LOOP": "x"})
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("XMPPGATE_CONFIG=%q: ", test.file)) ||
			!strings.Contains(err.Error(), test.err) || !strings.Contains(err.Error(), "XMPPGATE_LOOP") {
			t.Errorf("%s: %v", test.file, err)
		}
	}
}
