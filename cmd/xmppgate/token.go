package main

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"xmppgate/cmd/xmppgate/internal/status"
)

// This file has the token of operators. It lets in who changes something: drains,
// reloads, ends sessions. Reading needs none.
//
// A request has the token in Authorization, or in a form of the status page in its body:
// never in its URL, which browsers and proxies keep. There is no cookie, because a
// browser would send that to every other port of the same host; so no other page can use
// what an operator has typed here, and nothing has to be kept between two requests.

// Bounds of a token, in bytes. Nobody guesses one of minToken random characters.
const (
	minToken = 16
	maxToken = 1 << 10
)

// tokenField is the field of a form that has the token.
const tokenField = "token"

// readToken returns the token in a file, without the white space around it.
func readToken(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	token, err := io.ReadAll(io.LimitReader(f, maxToken+64))
	if err != nil {
		return nil, err
	}
	switch token = bytes.TrimSpace(token); {
	case len(token) < minToken:
		return nil, fmt.Errorf("%s: the token is too short: write %d characters or more, such as those of openssl rand -hex 16", name, minToken)
	case len(token) > maxToken:
		return nil, fmt.Errorf("%s: the token is too long: write %d characters or less", name, maxToken)
	case bytes.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return nil, fmt.Errorf("%s: a token is one line of printable ASCII characters without spaces", name)
	}
	return token, nil
}

// checkToken reports a token that cannot be used.
func (c *config) checkToken(r *report) {
	if c.AdminTokenFile == "" {
		return
	}
	if _, err := readToken(c.AdminTokenFile); err != nil {
		r.addError("ADMIN_TOKEN_FILE", err)
	}
}

// tokenIsPublic reports whether every user of this machine can read the token.
func (c *config) tokenIsPublic() bool {
	info, err := os.Stat(c.AdminTokenFile)
	return c.AdminTokenFile != "" && err == nil && runtime.GOOS != "windows" && info.Mode().Perm()&0o004 != 0
}

// refuse answers a request that may not do what it asks for: a browser with a page.
func (a *access) refuse(w http.ResponseWriter, r *http.Request, code int, text string) {
	if a.page != nil && status.WantsPage(r) {
		a.page.Problem(w, code, text)
		return
	}
	answer(w, code, text+"\n")
}

// maxActionBody bounds the body of a request that changes something, in bytes.
const maxActionBody = 8 << 10

// action lets h answer only requests with the token, if there is one. h finds their
// parameters, without the token, in r.Form.
func (a *access) action(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxActionBody)
		if r.URL.Query().Has(tokenField) {
			a.refuse(w, r, http.StatusBadRequest, "a token must not be in a URL, where logs keep it: send it as Authorization: Bearer, and make a new one")
			return
		}
		given := givenToken(r)
		if file := a.config().AdminTokenFile; file != "" {
			// It is read each time: what changes something is rare, and a new
			// token holds at once.
			want, err := readToken(file)
			if err != nil {
				a.logRefusal(r, fmt.Sprintf("%sADMIN_TOKEN_FILE cannot be used: %v", prefix, err))
				a.refuse(w, r, http.StatusServiceUnavailable, "the token of this gateway cannot be read; its log says why")
				return
			}
			if cause := tokenProblem(given, want); cause != "" {
				a.logRefusal(r, cause)
				w.Header().Set("WWW-Authenticate", `Bearer realm="xmppgate"`)
				a.refuse(w, r, http.StatusUnauthorized, cause)
				return
			}
		}
		h(w, r)
	})
}

// givenToken takes the token out of a request.
func givenToken(r *http.Request) (token string) {
	if err := r.ParseForm(); err != nil {
		r.Form, r.PostForm = url.Values{}, url.Values{}
	}
	token = r.PostForm.Get(tokenField)
	r.PostForm.Del(tokenField)
	r.Form.Del(tokenField)
	if scheme, credentials, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		token = credentials
	}
	return strings.TrimSpace(token)
}

// tokenProblem returns why a token does not let in. The time it takes says nothing of
// the right one.
func tokenProblem(given string, want []byte) string {
	if given == "" {
		return "this needs the token in " + prefix + "ADMIN_TOKEN_FILE: send it as Authorization: Bearer"
	}
	got, right := sha256.Sum256([]byte(given)), sha256.Sum256(want)
	if subtle.ConstantTimeCompare(got[:], right[:]) == 0 {
		return "the token is not the one in " + prefix + "ADMIN_TOKEN_FILE"
	}
	return ""
}
