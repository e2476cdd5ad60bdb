package doctor

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/xdg-go/scram"

	"xmppgate/framing"
)

const exporter = string(scram.ChannelBindingTLSExporter)

// scramHashes are the mechanisms that the doctor knows, the best first.
var scramHashes = []struct {
	mechanism string
	hash      scram.HashGeneratorFcn
}{
	{"SCRAM-SHA-512", scram.SHA512},
	{"SCRAM-SHA-256", scram.SHA256},
	{"SCRAM-SHA-1", scram.SHA1},
}

// The iterations that a server may ask for: each costs time here, and the number is
// the server's. Deployments have 4,096 to some 100,000.
const maxIterations = 1_000_000

// A refusal is a login or a connection that failed, as a finding.
type refusal struct{ id, text string }

func (e refusal) Error() string { return e.text }

// choose returns the mechanism for the login, or why there is none.
func (x *examination) choose(s *session, mechanisms []string) (string, error) {
	for _, h := range scramHashes {
		if slices.Contains(mechanisms, h.mechanism) {
			return h.mechanism, nil
		}
	}
	switch {
	case !slices.Contains(mechanisms, "PLAIN"):
		return "", refusal{"no-usable-mechanism", "none of " + printableWords(mechanisms) + " takes a password"}
	case s.tls == nil && !x.allowPlain:
		return "", refusal{"no-usable-mechanism", "only PLAIN takes a password, and there is no TLS: the password is not sent"}
	}
	return "PLAIN", nil
}

// authenticate logs in and, unless by SASL2, restarts the stream. It returns the features
// behind.
func (x *examination) authenticate(ctx context.Context, s *session, mechanism string) (*element, error) {
	if err := x.negotiate(ctx, s, mechanism); err != nil {
		return nil, err
	}
	if x.sasl2 { // features come without another <open/>
		features, err := s.await(x.deadline(ctx), func(e *element) bool { return e.is(framing.NSStreams, "features") })
		if err != nil {
			id, text := x.ending(err, false)
			return nil, refusal{id, "after the login: " + text}
		}
		return features, nil
	}
	o, err := x.openStream(ctx, s)
	if err != nil {
		id, text := x.ending(err, o.open == nil)
		return nil, refusal{id, "after the login: " + text}
	}
	return o.features, nil
}

// A conversation is the client's side of a mechanism.
type conversation interface {
	Step(challenge string) (response string, err error)
	Valid() bool // the server has proved to know the password
}

// plain is the mechanism PLAIN (RFC 4616).
type plain struct{ message string }

func (p plain) Step(string) (string, error) { return p.message, nil }
func (p plain) Valid() bool                 { return true }

func (x *examination) converse(s *session, mechanism string) (conversation, error) {
	if mechanism == "PLAIN" {
		return plain{"\x00" + x.local + "\x00" + x.password}, nil
	}
	base, bound := strings.CutSuffix(mechanism, "-PLUS")
	for _, h := range scramHashes {
		if h.mechanism != base {
			continue
		}
		c, err := h.hash.NewClient(x.local, x.password, "")
		if err != nil { // not in Unicode 3.2: servers that allow it compare bytes
			if c, err = h.hash.NewClientUnprepped(x.local, x.password, ""); err != nil {
				return nil, err
			}
		}
		if !bound {
			return c.NewConversation(), nil
		}
		binding, err := x.channelBinding(s.tls)
		if err != nil {
			return nil, err
		}
		return c.NewConversationWithChannelBinding(binding), nil
	}
	return nil, refusal{"no-usable-mechanism", "the mechanism is not known here"}
}

// channelBinding binds to the connection by the best type that the server names. One
// that names none has the usual type for the version of TLS.
func (x *examination) channelBinding(state *tls.ConnectionState) (scram.ChannelBinding, error) {
	offered := func(t scram.ChannelBindingType) bool { return slices.Contains(x.bindings, string(t)) }
	switch modern := state.Version >= tls.VersionTLS13; {
	case offered(scram.ChannelBindingTLSExporter), len(x.bindings) == 0 && modern:
		return scram.NewTLSExporterBinding(state)
	case offered(scram.ChannelBindingTLSServerEndpoint):
		return scram.NewTLSServerEndpointBinding(state)
	case !modern && len(state.TLSUnique) > 0:
		return scram.NewTLSUniqueBinding(state.TLSUnique), nil
	}
	return scram.ChannelBinding{}, errors.New("the server names no type of binding that the doctor knows")
}

// authMessage begins a login.
func (x *examination) authMessage(mechanism, first string) string {
	if x.sasl2 {
		return fmt.Sprintf("<authenticate xmlns='%s' mechanism='%s'><initial-response>%s</initial-response><user-agent><software>xmppgate doctor</software></user-agent></authenticate>", nsSASL2, mechanism, encode(first))
	}
	return fmt.Sprintf("<auth xmlns='%s' mechanism='%s'>%s</auth>", nsSASL, mechanism, encode(first))
}

// negotiate is SASL (RFC 6120, section 6) or SASL2 (XEP-0388).
func (x *examination) negotiate(ctx context.Context, s *session, mechanism string) error {
	c, err := x.converse(s, mechanism)
	if err != nil {
		return err
	}
	first, err := c.Step("")
	if err != nil {
		return refusal{"login-refused", "the mechanism cannot start"}
	}
	ns := nsSASL
	if x.sasl2 {
		ns = nsSASL2
	}
	if err := s.send(x.authMessage(mechanism, first)); err != nil {
		return lost(err)
	}
	for deadline := x.deadline(ctx); ; {
		e, err := s.await(deadline, func(e *element) bool { return e.Space == ns })
		if err != nil {
			if e := (streamError{}); errors.As(err, &e) {
				id, text := x.ending(err, false)
				return refusal{id, text}
			}
			return lost(err)
		}
		switch e.Local {
		case "challenge":
			challenge, err := decode(e.content())
			if err == nil {
				err = checkIterations(challenge)
			}
			if err != nil {
				return refusal{"login-refused", err.Error()}
			}
			response, err := c.Step(challenge)
			if err != nil {
				s.send(fmt.Sprintf("<abort xmlns='%s'/>", ns))
				return scramFault(err)
			}
			if err := s.send(fmt.Sprintf("<response xmlns='%s'>%s</response>", ns, encode(response))); err != nil {
				return lost(err)
			}
		case "success":
			if !c.Valid() {
				data := e
				if x.sasl2 {
					data = e.child(ns, "additional-data")
				}
				last, err := decode(data.content())
				if err == nil {
					_, err = c.Step(last)
				}
				if err != nil || !c.Valid() {
					return refusal{"server-signature", "the server's signature does not fit the password"}
				}
			}
			return nil
		case "continue":
			return refusal{"login-refused", "the server wants another step behind the password (<continue/>)"}
		case "failure":
			return failure(e.condition(nsSASL))
		}
	}
}

func lost(err error) error {
	if isTimeout(err) {
		return refusal{"login-unanswered", "no answer in time"}
	}
	return refusal{"login-unanswered", describe(err)}
}

// scramFault is an error of the library, which may quote what the server sent.
func scramFault(err error) error {
	if strings.Contains(err.Error(), "signature") || strings.Contains(err.Error(), "verif") {
		return refusal{"server-signature", "the server's signature does not fit the password"}
	}
	return refusal{"login-refused", "the challenge cannot be answered: " + quote(err.Error())}
}

// failure is what a condition of SASL means (RFC 6120, section 6.5).
func failure(c condition) error {
	id := "login-refused"
	switch c.name {
	case "not-authorized":
		id = "not-authorized"
	case "account-disabled", "credentials-expired":
		id = "account-disabled"
	case "encryption-required":
		id = "tls-required"
	}
	return refusal{id, c.String()}
}

func encode(text string) string {
	if text == "" {
		return "="
	}
	return base64.StdEncoding.EncodeToString([]byte(text))
}

func decode(text string) (string, error) {
	if text == "=" {
		return "", nil
	}
	b, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return "", errors.New("what the server sends is not base64")
	}
	return string(b), nil
}

// checkIterations refuses a number of iterations that would keep this machine busy.
func checkIterations(challenge string) error {
	for field := range strings.SplitSeq(challenge, ",") {
		number, ok := strings.CutPrefix(field, "i=")
		if !ok {
			continue
		}
		n, err := strconv.Atoi(number)
		if err != nil || n > maxIterations {
			return fmt.Errorf("the server asks for more than %d iterations of SCRAM", maxIterations)
		}
	}
	return nil
}

// bindsToTLS tries a mechanism with channel binding on a connection of its own. Its
// failure is one more failed login in the server's log.
func (x *examination) bindsToTLS(ctx context.Context, mechanisms []string) {
	mechanism := ""
	for _, h := range scramHashes {
		if slices.Contains(mechanisms, h.mechanism+"-PLUS") {
			mechanism = h.mechanism + "-PLUS"
			break
		}
	}
	if mechanism == "" {
		return
	}
	s, err := x.connect(ctx)
	if err != nil {
		return // the next check says so
	}
	defer s.cut()
	if s.tls == nil {
		return // judgeBinding has said so
	}
	if _, err := x.openStream(ctx, s); err != nil {
		return
	}
	if err := x.negotiate(ctx, s, mechanism); err != nil {
		x.found("login", "plus-through-gateway", "%s fails (%v), and works without -PLUS", mechanism, err)
		return
	}
	x.report.ok("login", "%s works as well: channel binding reaches the server", mechanism)
	s.send(closeMessage)
	s.await(earlier(x.deadline(ctx), time.Now().Add(closePatience)), func(*element) bool { return false })
}

// triesSASL2 logs in by SASL2 on a connection of its own, where the server offers both:
// newer clients take that.
func (x *examination) triesSASL2(ctx context.Context, mechanism string) {
	if !slices.Contains(x.beside, mechanism) {
		return
	}
	s, err := x.connect(ctx)
	if err != nil {
		return // the next check says so
	}
	defer s.cut()
	if _, err := x.openStream(ctx, s); err != nil {
		return
	}
	x.sasl2 = true
	defer func() { x.sasl2 = false }()
	if _, err := x.authenticate(ctx, s, mechanism); err != nil {
		id := "login-refused"
		if e := (refusal{}); errors.As(err, &e) {
			id = e.id
		}
		x.found("login", id, "by SASL2, and works without: %v", err)
		return
	}
	x.report.ok("login", "%s by SASL2 works as well", mechanism)
	s.send(closeMessage)
	s.await(earlier(x.deadline(ctx), time.Now().Add(closePatience)), func(*element) bool { return false })
}
