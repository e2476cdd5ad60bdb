package upstream

import (
	"context"
	"errors"
	"fmt"
	"time"

	"xmppgate/framing"
)

// startTLSElement asks for TLS (RFC 6120, section 5.4.2.1).
const startTLSElement = `<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>`

var (
	errNoSTARTTLS  = errors.New("the server does not offer STARTTLS; enable TLS there")
	errRefused     = errors.New("the server refused STARTTLS; see its log")
	errNoFeatures  = errors.New("the server sent no stream features")
	errInjected    = errors.New("the server, or somebody on the way, sent more behind <proceed/>")
	errClosedEarly = errors.New("the server ended the stream before TLS")
)

// startTLS negotiates TLS inside the stream (RFC 6120, section 5.4). There is no
// fallback. Nothing that the server sends before TLS is authentic, so the client gets
// none of it and no redirect is followed.
//
// The header does not name the client (RFC 6120, section 4.7.1). <starttls/> does not
// wait for the features, which saves a round trip. Nothing else may follow before the
// handshake, because servers drop it.
func (a *attempt) startTLS(in *input) error {
	out := framing.AppendStreamHeader(nil, framing.Header{To: a.request.Header.To, Version: []byte(`'1.0'`)})
	if err := a.write(append(out, startTLSElement...)); err != nil {
		return err
	}
	if err := in.header(); err != nil {
		return err
	}
	u, err := in.element()
	switch {
	case err != nil:
		return err
	case u.Class != framing.ClassFeatures:
		return badStream(errNoFeatures)
	case !u.OffersStartTLS():
		return &failure{result: ResultNoSTARTTLS, err: errNoSTARTTLS}
	}
	return in.proceed()
}

// upgrade negotiates TLS on a stream that was opened in plain text.
func (a *attempt) upgrade(context.Context) error {
	in := a.clear
	in.deadline, in.readTimeout = time.Now().Add(TLSTimeout), 0
	if err := a.conn.SetDeadline(in.deadline); err != nil {
		return err
	}
	if err := a.write([]byte(startTLSElement)); err != nil {
		return err
	}
	if err := in.proceed(); err != nil {
		return err
	}
	return a.handshake()
}

// proceed reads the server's answer to <starttls/>, which must be <proceed/> and nothing
// behind it.
func (in *input) proceed() error {
	u, err := in.element()
	switch {
	case err != nil:
		return err
	case u.Class != framing.ClassTLSProceed:
		return &failure{result: ResultNoSTARTTLS, err: errRefused}
	}
	// What came in plain text must not be read as if it came over TLS. That
	// includes white space (RFC 6120, section 5.4.2.3).
	if in.seen != len(in.buf) {
		return &failure{result: ResultInjected, err: errInjected}
	}
	return nil
}

// element returns the next unit, which must be an element other than a stream error.
func (in *input) element() (framing.StreamUnit, error) {
	u, err := in.next()
	switch {
	case err == errFull:
		return u, badStream(err)
	case err != nil:
		return u, err
	case u.Kind == framing.KindHeader:
		return u, badStream(errTwoHeaders)
	case u.Kind == framing.KindEnd:
		return u, &failure{result: ResultClosed, err: errClosedEarly}
	case u.Class == framing.ClassStreamError:
		c := u.StreamErrorCondition()
		return u, &failure{result: ResultStreamError, err: fmt.Errorf("stream error %s before TLS", c)}
	}
	return u, nil
}
