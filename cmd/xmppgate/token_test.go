package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"xmppgate/proxy"
)

const testToken = "0123456789abcdef"

// writeToken writes a token into a file.
func writeToken(t *testing.T, text string) (name string) {
	t.Helper()
	name = filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestBadTokens(t *testing.T) {
	for text, want := range map[string]string{
		"": "too short", "short": "too short", " \n" + testToken[1:] + "\n ": "too short",
		strings.Repeat("x", maxToken+1): "too long", testToken + " " + testToken: "one line", testToken + "é": "one line", testToken + "\n" + testToken: "one line",
		testToken: "", " " + testToken + "\r\n": "", strings.Repeat("x", maxToken): "",
	} {
		_, err := loadConfig(prefixed(map[string]string{"ADMIN_TOKEN_FILE": writeToken(t, text)}))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%.40q: %v, want %q", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), testToken) {
			t.Errorf("the error has the token: %v", err)
		}
	}
	if _, err := loadConfig(prefixed(map[string]string{"ADMIN_TOKEN_FILE": "/nowhere/token"})); err == nil {
		t.Error("a file that does not exist")
	}
}

// What changes something needs the token, and nothing else does. The token is not in the
// log, and does not help in a URL.
func TestActionsNeedTheToken(t *testing.T) {
	file := writeToken(t, testToken+"\n")
	var log bytes.Buffer
	a := newAdmin(&fakeGateway{sessions: []proxy.SessionInfo{{ID: 1}}})
	a.access.config = always(&config{AdminTokenFile: file})
	a.access.log = slog.New(slog.NewTextHandler(&log, nil))
	reloads := 0
	a.reload = func() ([]string, error) { reloads++; return nil, nil }
	actions := map[string]int{"/drain": 202, "/reload": 200, "/connections/end?id=1": 200}
	for name, c := range map[string]struct {
		header, body, query string
		status              int // zero for success
	}{
		"none":                      {"", "", "", 401},
		"wrong":                     {"Bearer " + testToken + "0", "", "", 401},
		"part":                      {"Bearer " + testToken[1:], "", "", 401},
		"upper case":                {"Bearer " + strings.ToUpper(testToken), "", "", 401},
		"another scheme":            {"Basic " + testToken, "", "", 401},
		"no scheme":                 {testToken, "", "", 401},
		"empty":                     {"Bearer ", "", "", 401},
		"right":                     {"Bearer " + testToken, "", "", 0},
		"scheme in lower case":      {"bearer " + testToken, "", "", 0},
		"in a form":                 {"", "token=" + testToken, "", 0},
		"wrong in a form":           {"", "token=x" + testToken, "", 401},
		"wrong header, right form":  {"Bearer wrong", "token=" + testToken, "", 401},
		"in the URL":                {"", "", "token=" + testToken, 400},
		"right, and one in the URL": {"Bearer " + testToken, "", "token=x", 400},
		"a long form":               {"", "x=" + strings.Repeat("x", maxActionBody) + "&token=" + testToken, "", 401},
	} {
		for path, success := range actions {
			target := path
			if c.query != "" {
				target += map[bool]string{true: "&", false: "?"}[strings.Contains(path, "?")] + c.query
			}
			a.drain = newDrain()
			before := reloads
			r := httptest.NewRequest("POST", target, strings.NewReader(c.body))
			r.Host = "localhost"
			if c.body != "" {
				r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			}
			if c.header != "" {
				r.Header.Set("Authorization", c.header)
			}
			w := httptest.NewRecorder()
			a.handler().ServeHTTP(w, r)
			want := c.status
			if want == 0 {
				want = success
			}
			if w.Code != want {
				t.Errorf("%s: %s: %d %s, want %d", name, path, w.Code, w.Body, want)
			}
			if happened := a.drain.begun() || reloads != before; happened != (c.status == 0 && !strings.Contains(path, "end")) {
				t.Errorf("%s: %s happened: %v", name, path, happened)
			}
			if strings.Contains(w.Body.String(), testToken) {
				t.Errorf("%s: the answer has the token: %s", name, w.Body)
			}
		}
	}
	for _, path := range []string{"/drain", "/reload", "/upgrade", "/tap", "/connections/end"} {
		if w := request(a, "POST", path); w.Code != 401 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	for _, path := range []string{"/metrics", "/connections", "/healthz", "/readyz", "/"} {
		if w := request(a, "GET", path); w.Code != 200 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	if strings.Contains(log.String(), testToken) || !strings.Contains(log.String(), "admin request refused") {
		t.Errorf("the log:\n%s", log.String())
	}

	// A new token holds at once; without one nobody gets in.
	drains := func(token string) int {
		a.drain = newDrain()
		r := httptest.NewRequest("POST", "/drain", nil)
		r.Host = "localhost"
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		a.handler().ServeHTTP(w, r)
		return w.Code
	}
	other := strings.Repeat("y", minToken)
	got := []int{drains(testToken)}
	if err := os.WriteFile(file, []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	got = append(got, drains(testToken), drains(other))
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	got = append(got, drains(other), drains(""))
	if want := "[202 401 202 503 503]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
}
