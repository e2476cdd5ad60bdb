package upstream

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// options are the query parameters of a server's URL and what is made of them
// once. All endpoints of a server share them.
type options struct {
	name    string // name
	pins    []pin  // pin
	proxy   byte   // the version of the PROXY header; 0 means none
	private bool   // whether DNS and redirects may lead to private addresses
	files   files  // ca, cert and key
}

// A pin is the SHA-256 hash of a public key, in the form that certificates
// hold it (SubjectPublicKeyInfo, as in RFC 7469, section 2.4).
type pin [sha256.Size]byte

// Which servers an option makes sense for.
var (
	withTLS = []string{"starttls", "tls", "srv"}
	withAll = []string{"tcp", "unix", "starttls", "tls", "srv"}
)

// knownOptions are the parameters that a query may have.
var knownOptions = []struct {
	name   string
	where  []string
	repeat bool
	set    func(o *options, value string) error
}{
	{"ca", withTLS, false, func(o *options, v string) error { o.files.ca = v; return nil }},
	{"name", withTLS, false, (*options).setName},
	{"pin", withTLS, true, (*options).setPin},
	{"cert", withTLS, false, func(o *options, v string) error { o.files.cert = v; return nil }},
	{"key", withTLS, false, func(o *options, v string) error { o.files.key = v; return nil }},
	{"proxy", withAll, false, (*options).setProxy},
	{"private", withTLS, false, (*options).setPrivate},
}

// parseOptions reads the query of a server's URL.
func parseOptions(sc *scheme, query string) (o *options, problems []error) {
	o = &options{}
	values, err := url.ParseQuery(query)
	if err != nil {
		return o, []error{fmt.Errorf("query: %w", err)}
	}
	var names []string
	for _, k := range knownOptions {
		names = append(names, k.name)
		given := values[k.name]
		delete(values, k.name)
		switch {
		case len(given) == 0:
			continue
		case !slices.Contains(k.where, sc.name):
			problems = append(problems, fmt.Errorf("option %s has no meaning for %s:; remove it", k.name, sc.name))
			continue
		case len(given) > 1 && !k.repeat:
			problems = append(problems, fmt.Errorf("option %s is given %d times; give it once", k.name, len(given)))
			continue
		}
		for _, v := range given {
			if v == "" {
				problems = append(problems, fmt.Errorf("option %s is empty; give it a value or remove it", k.name))
			} else if err := k.set(o, v); err != nil {
				problems = append(problems, fmt.Errorf("option %s: %w", k.name, err))
			}
		}
	}
	unknown := make([]string, 0, len(values))
	for name := range values {
		unknown = append(unknown, name)
	}
	slices.Sort(unknown)
	for _, name := range unknown {
		problems = append(problems, fmt.Errorf("unknown option %q; there are %s", printable(name), strings.Join(names, ", ")))
	}
	if o.files.ca != "" && len(o.pins) > 0 {
		problems = append(problems, errors.New("option pin takes the place of the check against ca; remove one of them"))
	}
	return o, append(problems, o.files.first()...)
}

func (o *options) setName(name string) error {
	o.name = strings.ToLower(strings.TrimSuffix(name, "."))
	return checkHost(o.name)
}

func (o *options) setPin(s string) error {
	hash, ok := strings.CutPrefix(s, "sha256:")
	// A plus sign of base64 has become a space in the query.
	hash = strings.TrimRight(strings.ReplaceAll(hash, " ", "+"), "=")
	for _, decode := range []func(string) ([]byte, error){
		hex.DecodeString, base64.RawStdEncoding.DecodeString, base64.RawURLEncoding.DecodeString,
	} {
		if b, err := decode(hash); ok && err == nil && len(b) == sha256.Size {
			o.pins = append(o.pins, pin(b))
			return nil
		}
	}
	return errors.New("write sha256: and the 32 bytes of the hash in hex or base64")
}

func (o *options) setProxy(version string) error {
	switch version {
	case "v1":
		o.proxy = 1
	case "v2":
		o.proxy = 2
	default:
		return errors.New("write v1 or v2")
	}
	return nil
}

func (o *options) setPrivate(s string) error {
	if s != "true" && s != "false" {
		return errors.New("write true or false")
	}
	o.private = s == "true"
	return nil
}
