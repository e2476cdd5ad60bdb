//go:build kubernetes

package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"mellium.im/sasl"
)

// These tests run in the cluster that deploy/kubernetes/cluster/run.sh starts: kubectl is in the PATH, addresses of
// Services and pods can be reached. They need none of the servers that the other tests do.
func init() { clusterOnly = true }

// manifests is where the files for operators are.
const manifests = "../kubernetes"

// kubectl runs a command that has to succeed, and returns what it prints.
func kubectl(t testing.TB, args ...string) string {
	t.Helper()
	out, err := tryKubectl("", args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func tryKubectl(input string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "kubectl", args...)
	if input != "" {
		cmd.Stdin = strings.NewReader(input)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w\n%s%s", strings.Join(args, " "), err, out, stderr.Bytes())
	}
	return strings.TrimSpace(string(out)), nil
}

// describe shows the pods of a namespace and what they logged if the test fails.
func describe(t *testing.T, namespace string) {
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		for _, args := range [][]string{
			{"get", "pods,endpointslices", "-o", "wide"},
			{"get", "events", "--sort-by", ".lastTimestamp"},
			{"logs", "--selector", "app.kubernetes.io/name", "--all-containers", "--prefix", "--tail", "30"},
		} {
			out, err := tryKubectl("", append([]string{"-n", namespace}, args...)...)
			t.Logf("%v\n%s%v", args, out[max(0, len(out)-12000):], err)
		}
	})
}

// rollout waits until a Deployment is as it has been told to be, and none of its old pods is left.
func rollout(t testing.TB, namespace, deployment string) {
	t.Helper()
	kubectl(t, "-n", namespace, "rollout", "status", "deployment/"+deployment, "--timeout", "4m")
	err := poll(4*time.Minute, func() error {
		terminating, err := tryKubectl("", "-n", namespace, "get", "pods", "-o", `jsonpath={.items[*].metadata.deletionTimestamp}`)
		if err == nil && terminating != "" {
			err = errors.New("pods are being deleted")
			time.Sleep(time.Second)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// serviceURL is the WebSocket of a Service, by its address.
func serviceURL(t testing.TB, scheme, namespace, service string) string {
	t.Helper()
	return scheme + "://" + kubectl(t, "-n", namespace, "get", "service", service, "-o", "jsonpath={.spec.clusterIP}") + ":80/xmpp-websocket"
}

// pods are the names of the pods that a selector finds.
func pods(t testing.TB, namespace, selector string) []string {
	t.Helper()
	return strings.Fields(kubectl(t, "-n", namespace, "get", "pods", "-l", selector, "-o", "jsonpath={.items[*].metadata.name}"))
}

// The API server takes every manifest: unknown fields are errors, defaults and admission are its own. Nothing of this is
// stored but the namespace.
func TestKubernetesManifests(t *testing.T) {
	namespace := "apiVersion: v1\nkind: Namespace\nmetadata: { name: xmpp, labels: { pod-security.kubernetes.io/enforce: restricted } }\n"
	if _, err := tryKubectl(namespace, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	tryKubectl("", "-n", "xmpp", "create", "serviceaccount", "default") // what a controller does where one runs
	dry := []string{"apply", "--dry-run=server", "--validate=strict", "--namespace", "xmpp"}
	for _, args := range [][]string{
		{"-k", manifests},
		{"-k", filepath.Join(manifests, "fleet")},
		{"-f", filepath.Join(manifests, "fleet/autoscaler.yaml")},
		{"-f", filepath.Join(manifests, "ingress.yaml")},
		{"-f", filepath.Join(manifests, "httproute.yaml")},
		{"-f", filepath.Join(manifests, "podmonitor.yaml")},
	} {
		t.Run(args[1], func(t *testing.T) { t.Log(kubectl(t, slices.Concat(dry, args)...)) })
	}

	// What would pass if nothing was looked at.
	fleet := kubectl(t, "kustomize", filepath.Join(manifests, "fleet"))
	for name, change := range map[string][2]string{
		"unknown field": {"automountServiceAccountToken:", "automountServiceAcountToken:"},
		"wrong value":   {"maxSurge: 1", "maxSurge: some"},
		"wrong name":    {"name: xmpp-ws", "name: xmpp_ws"},
	} {
		t.Run(name, func(t *testing.T) {
			broken := strings.Replace(fleet, change[0], change[1], 1)
			if broken == fleet {
				t.Fatalf("no %q in the manifests", change[0])
			}
			if out, err := tryKubectl(broken, slices.Concat(dry, []string{"-f", "-"})...); err == nil {
				t.Errorf("accepted: %s", out)
			}
		})
	}
	t.Run("restricted", func(t *testing.T) {
		pod := `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"},"spec":{"containers":[{"name":"x","image":"xmppgate:latest"}]}}`
		if out, err := tryKubectl(pod, slices.Concat(dry, []string{"-f", "-"})...); err == nil || !strings.Contains(err.Error(), "PodSecurity") {
			t.Errorf("a pod that may do anything: %s, %v", out, err)
		}
	})
}

// scram logs in with SCRAM-SHA-1, over an open stream, and binds a resource.
func (c *client) scram(host, localpart, resource string) error {
	n := sasl.NewClient(sasl.ScramSha1, sasl.Credentials(func() ([]byte, []byte, []byte) {
		return []byte(localpart), []byte(password), nil
	}))
	const space = `xmlns="urn:ietf:params:xml:ns:xmpp-sasl"`
	if _, err := c.open(host); err != nil {
		return err
	}
	_, message, err := n.Step(nil)
	if err != nil {
		return err
	}
	el := `<auth ` + space + ` mechanism="SCRAM-SHA-1">` + base64.StdEncoding.EncodeToString(message) + `</auth>`
	for {
		if err := c.transport.send(el); err != nil {
			return err
		}
		answer, err := c.receive()
		if err != nil {
			return err
		}
		if !answer.is("challenge") && !answer.is("success") {
			return fmt.Errorf("authentication: %.300q", answer.raw)
		}
		_, content, _ := strings.Cut(answer.raw, ">")
		content, _, _ = strings.Cut(content, "<")
		challenge, err := base64.StdEncoding.DecodeString(content)
		if err != nil {
			return err
		}
		if _, message, err = n.Step(challenge); err != nil {
			return err
		}
		if answer.is("success") {
			break
		}
		el = `<response ` + space + `>` + base64.StdEncoding.EncodeToString(message) + `</response>`
	}
	if _, err := c.open(host); err != nil {
		return err
	}
	return c.bind(resource)
}

// asScram is [as] with SCRAM, for servers that take no plain password.
func asScram(t testing.TB, tr transport, localpart, resource string) *user {
	t.Helper()
	c := &client{transport: tr}
	t.Cleanup(func() { c.conn().Close() })
	if err := c.scram(domain, localpart, resource); err != nil {
		t.Fatalf("log in %s: %v", localpart, err)
	}
	u := &user{c, t}
	u.appear()
	return u
}

func dialAgain(t testing.TB, url string, dialer ws.Dialer) (tr transport) {
	t.Helper()
	err := poll(time.Minute, func() (err error) { tr, err = dialWebSocket(url, dialer); return err })
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// register makes an account by the server's in-band registration.
func register(url, localpart string) error {
	c, err := dial(url)
	if err != nil {
		return err
	}
	defer c.conn().Close()
	if _, err := c.open(domain); err != nil {
		return err
	}
	_, err = c.request("", "set", `<query xmlns="jabber:iq:register"><username>`+localpart+`</username><password>`+password+`</password></query>`)
	return err
}

// converse has two users say something to each other.
func converse(t testing.TB, a, b *user) {
	t.Helper()
	a.say(`<message to="` + b.jid + `"><body>from a</body></message>`)
	b.hearBody("from a")
	b.say(`<message to="` + a.jid + `"><body>from b</body></message>`)
	a.hearBody("from b")
}

// drained deletes a pod whose gateway is a sidecar, and expects that its client is told to go elsewhere while the server
// is still there.
func drained(t *testing.T, namespace, selector string, u *user) {
	t.Helper()
	begin := time.Now()
	kubectl(t, "-n", namespace, "delete", "pod", "-l", selector, "--wait=false")
	for {
		e, err := u.receive()
		if err == nil && e.raw != gatewayClose {
			continue
		}
		if closeCode(err) != 1001 {
			t.Fatalf("%v, want close code 1001", err)
		}
		break
	}
	told := time.Since(begin)
	rollout(t, namespace, strings.TrimPrefix(kubectl(t, "-n", namespace, "get", "deployment", "-o", "name"), "deployment.apps/"))
	t.Logf("the client was told after %v, a new pod was ready after %v", told.Round(time.Second/10), time.Since(begin).Round(time.Second))
	if told > 25*time.Second {
		t.Error("that is longer than the drain time")
	}
}

// deploy/kubernetes as it is, then with TLS in the gateway, and a certificate that is renewed.
func TestKubernetesSidecarProsody(t *testing.T) {
	const namespace, selector = "xmpp", "app.kubernetes.io/name=prosody"
	describe(t, namespace)
	kubectl(t, "apply", "-k", manifests)
	t.Cleanup(func() { kubectl(t, "delete", "namespace", namespace, "--wait=false") })
	rollout(t, namespace, "prosody")
	url := serviceURL(t, "ws", namespace, "xmpp-ws")
	alice := asScram(t, dialAgain(t, url, ws.Dialer{}), "alice", "phone")
	bob := asScram(t, dialAgain(t, url, ws.Dialer{}), "bob", "desk")
	converse(t, alice, bob)
	bob.leave()
	t.Run("drain", func(t *testing.T) { drained(t, namespace, selector, alice) })

	t.Run("certificate", func(t *testing.T) {
		secret := func(serial int64) {
			dir := t.TempDir()
			writePair(t, dir, serial)
			text := kubectl(t, "-n", namespace, "create", "secret", "tls", "chat-example-org-tls", "--dry-run=client", "-o", "yaml",
				"--cert", filepath.Join(dir, "tls.crt"), "--key", filepath.Join(dir, "tls.key"))
			if _, err := tryKubectl(text, "apply", "-f", "-"); err != nil {
				t.Fatal(err)
			}
		}
		secret(1)
		kubectl(t, "-n", namespace, "patch", "deployment", "prosody", "--patch-file", filepath.Join(manifests, "tls.yaml"))
		rollout(t, namespace, "prosody")
		url := serviceURL(t, "wss", namespace, "xmpp-ws")
		insecure := &tls.Config{InsecureSkipVerify: true} // the serial number is what is compared
		host := strings.TrimSuffix(strings.TrimPrefix(url, "wss://"), "/xmpp-websocket")
		presented := func() (int64, error) {
			c, err := tls.Dial("tcp", host, insecure)
			if err != nil {
				return 0, err
			}
			defer c.Close()
			return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64(), nil
		}
		alice := asScram(t, dialAgain(t, url, ws.Dialer{TLSConfig: insecure}), "alice", "phone")
		if serial, err := presented(); err != nil || serial != 1 {
			t.Fatalf("certificate %d, %v", serial, err)
		}
		before := pods(t, namespace, selector)
		begin := time.Now()
		secret(2)
		err := poll(3*time.Minute, func() error {
			alice.ask("", "get", `<ping xmlns="urn:xmpp:ping"/>`) // it has to live on
			time.Sleep(time.Second)
			if serial, err := presented(); err != nil || serial != 2 {
				return fmt.Errorf("certificate %d, %w", serial, err)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("renewed %v after the Secret was", time.Since(begin).Round(time.Second))
		bob := asScram(t, dialAgain(t, url, ws.Dialer{TLSConfig: insecure}), "bob", "desk")
		converse(t, alice, bob)
		if after := pods(t, namespace, selector); !slices.Equal(before, after) {
			t.Errorf("pods %v became %v", before, after)
		}
	})
}

// writePair writes tls.crt and tls.key.
func writePair(t testing.TB, dir string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "chat.example.org"}, DNSNames: []string{"chat.example.org"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(
		os.WriteFile(filepath.Join(dir, "tls.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(filepath.Join(dir, "tls.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600))
	if err != nil {
		t.Fatal(err)
	}
}

// The component on a Deployment that is not from deploy/kubernetes.
func TestKubernetesSidecarEjabberd(t *testing.T) {
	const namespace = "ejabberd"
	describe(t, namespace)
	kubectl(t, "apply", "-k", "testdata/kubernetes/ejabberd")
	t.Cleanup(func() { kubectl(t, "delete", "namespace", namespace, "--wait=false") })
	rollout(t, namespace, "chat-server")
	url := serviceURL(t, "ws", namespace, "xmpp-ws")
	for _, name := range []string{"alice", "bob"} {
		if err := poll(time.Minute, func() error { return register(url, name) }); err != nil {
			t.Fatal(err)
		}
	}
	alice, bob := as(t, url, "alice", "phone"), as(t, url, "bob", "desk")
	converse(t, alice, bob)
	bob.leave()
	t.Run("drain", func(t *testing.T) { drained(t, namespace, "app.kubernetes.io/name=ejabberd", alice) })
}

// The clients of the fleet, and how soon each has to be back.
const (
	fleetClients = 300
	backWithin   = 3 * time.Second
)

// member is a client that comes back whenever its connection is lost.
type member struct {
	*chatter
	mu      sync.Mutex      // held while the connection is being replaced, and while something is sent
	outages []time.Duration // from the loss of a connection until the session is resumed
}

// live receives until ended says so.
func (m *member) live(url string, ended func() bool) error {
	for {
		err := m.receiveUntil(ended)
		if err == nil {
			return nil
		}
		lost := time.Now()
		if errors.Is(err, errBounced) || errors.Is(err, errEnded) {
			return err
		}
		m.conn().Close()
		if err := m.back(url, lost); err != nil {
			return err
		}
	}
}

// back resumes the session, trying again as clients do, but sooner.
func (m *member) back(url string, lost time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		fresh, err := m.reattach(url)
		if err == nil {
			m.client = fresh
			m.outages = append(m.outages, time.Since(lost))
			fresh.resend() // if that fails, so does the next read
			return nil
		}
		if refused := (resumeFailed{}); errors.As(err, &refused) || time.Since(lost) > time.Minute {
			return fmt.Errorf("%v after the loss: %w", time.Since(lost), err)
		}
		time.Sleep(100*time.Millisecond + mathrand.N(200*time.Millisecond))
	}
}

// talk sends a message a second until stop is closed.
func (m *member) talk(stop <-chan struct{}) {
	time.Sleep(mathrand.N(time.Second))
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			m.mu.Lock()
			body := "<body>" + strconv.Itoa(m.sent) + "</body>"
			m.sent++ // in the queue for resumption, whatever becomes of it
			m.message(m.peer.jid, body)
			m.mu.Unlock()
		}
	}
}

// count compares what came with what the peer has sent: each message once.
func (m *member) count() (lost, doubled int) {
	seen := make([]int, m.peer.sent)
	for _, body := range m.got {
		if n, err := strconv.Atoi(body); err == nil && n < len(seen) {
			seen[n]++
		}
	}
	for _, n := range seen {
		switch {
		case n == 0:
			lost++
		case n > 1:
			doubled += n - 1
		}
	}
	return lost, doubled
}

// Three gateways in front of one Prosody, and all that a cluster does to them, under 300 clients that send a message a
// second each: nothing is lost or doubled, and everybody is back within three seconds.
func TestKubernetesFleet(t *testing.T) {
	const namespace, selector = "fleet", "app.kubernetes.io/name=xmppgate"
	describe(t, namespace)
	kubectl(t, "apply", "-k", "testdata/kubernetes/fleet")
	rollout(t, namespace, "prosody")
	rollout(t, namespace, "xmppgate")
	url := serviceURL(t, "ws", namespace, "xmppgate")

	members := make([]*member, fleetClients)
	var start sync.WaitGroup
	free := make(chan struct{}, 10)
	for i := range members {
		start.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			name := fmt.Sprintf("user%d", i)
			var c *client
			err := poll(time.Minute, func() error { return register(url, name) })
			if err == nil {
				c, err = login(url, domain, name, "e2e")
			}
			if err == nil {
				err = errors.Join(c.enable(), c.send("<presence/>"))
			}
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			members[i] = &member{chatter: &chatter{client: c}}
		})
	}
	start.Wait()
	if t.Failed() {
		t.FailNow()
	}
	stop := make(chan struct{})
	var talking, living sync.WaitGroup
	for i, m := range members {
		m.peer = members[i^1].chatter
		talking.Go(func() { m.talk(stop) })
	}
	for i, m := range members {
		living.Go(func() {
			ended := func() bool { return len(m.got) > 0 && m.got[len(m.got)-1] == "end" }
			if err := m.live(url, ended); err != nil {
				t.Errorf("client %d: %v", i, err)
				m.conn().Close()
			}
		})
	}

	// during does something to the cluster, and looks at who had to come back meanwhile.
	during := func(name string, moves bool, action func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			for _, m := range members {
				m.mu.Lock()
				m.outages = nil
				m.mu.Unlock()
			}
			begin := time.Now()
			action(t)
			took := time.Since(begin)
			time.Sleep(4 * time.Second) // who has lost its connection at the very end comes back
			var outages []time.Duration
			clients := 0
			for _, m := range members {
				m.mu.Lock()
				outages = append(outages, m.outages...)
				if len(m.outages) > 0 {
					clients++
				}
				m.mu.Unlock()
			}
			if len(outages) == 0 {
				t.Logf("%v: nobody had to come back", took.Round(time.Second))
				if moves {
					t.Error("no connection was lost: nothing was tried")
				}
				return
			}
			slices.Sort(outages)
			slowest := outages[len(outages)-1]
			t.Logf("%v: %d clients came back %d times, half of them within %v, all within %v", took.Round(time.Second),
				clients, len(outages), outages[len(outages)/2].Round(time.Millisecond), slowest.Round(time.Millisecond))
			if !moves {
				t.Error("nobody should have had to")
			}
			if slowest > backWithin {
				t.Errorf("that is longer than %v", backWithin)
			}
		})
	}
	scale := func(n int) func(*testing.T) {
		return func(t *testing.T) {
			kubectl(t, "-n", namespace, "scale", "deployment/xmppgate", "--replicas", strconv.Itoa(n))
			rollout(t, namespace, "xmppgate")
			if got := pods(t, namespace, selector); len(got) != n {
				t.Errorf("pods: %v", got)
			}
		}
	}
	during("scale out", false, scale(5))
	during("rolling update", true, func(t *testing.T) {
		kubectl(t, "-n", namespace, "set", "image", "deployment/xmppgate", "xmppgate=xmppgate:next")
		rollout(t, namespace, "xmppgate")
	})
	during("scale in", true, scale(3))
	during("node drain", true, func(t *testing.T) {
		there := func() string {
			return kubectl(t, "-n", namespace, "get", "pods", "-l", selector, "--field-selector", "spec.nodeName=node-2", "-o", "name")
		}
		if there() == "" {
			t.Fatal("no gateway is on that node")
		}
		kubectl(t, "drain", "node-2", "--pod-selector", selector, "--timeout", "4m")
		rollout(t, namespace, "xmppgate")
		if left := there(); left != "" {
			t.Errorf("still there: %s", left)
		}
		kubectl(t, "uncordon", "node-2")
	})
	during("deleted pod", true, func(t *testing.T) {
		kubectl(t, "-n", namespace, "delete", "pod", pods(t, namespace, selector)[0], "--force", "--grace-period", "0")
		rollout(t, namespace, "xmppgate")
	})
	during("killed process", true, func(t *testing.T) {
		killGateway(t)
		time.Sleep(time.Second)
		rollout(t, namespace, "xmppgate")
	})
	during("configuration", false, func(t *testing.T) {
		settings := kubectl(t, "-n", namespace, "get", "configmap", "xmppgate", "-o", `jsonpath={.data.xmppgate\.env}`)
		patch := fmt.Sprintf(`{"data":{"xmppgate.env":%q}}`, settings+"\nXMPPGATE_PATH=/xmpp-websocket,/reloaded\n")
		kubectl(t, "-n", namespace, "patch", "configmap", "xmppgate", "--type", "merge", "--patch", patch)
		reloaded := strings.TrimSuffix(url, "/xmpp-websocket") + "/reloaded"
		begin := time.Now()
		for _, pod := range pods(t, namespace, selector) {
			address := kubectl(t, "-n", namespace, "get", "pod", pod, "-o", "jsonpath={.status.podIP}")
			err := poll(3*time.Minute, func() error {
				kubectl(t, "-n", namespace, "exec", pod, "--", "/xmppgate", "reload")
				tr, err := dialTransport("ws://" + address + ":5290/reloaded")
				if err != nil {
					time.Sleep(time.Second)
					return err
				}
				return tr.conn().Close()
			})
			if err != nil {
				t.Fatalf("%s: %v", pod, err)
			}
		}
		t.Logf("in force everywhere after %v", time.Since(begin).Round(time.Second))
		if tr, err := dialTransport(reloaded); err != nil {
			t.Error(err)
		} else {
			tr.conn().Close()
		}
	})

	close(stop)
	talking.Wait()
	for _, m := range members {
		m.mu.Lock()
		m.send(`<message to="` + m.peer.jid + `"><body>end</body></message>`)
		m.mu.Unlock()
	}
	living.Wait()
	sent, lost, doubled, disordered := 0, 0, 0, 0
	for _, m := range members {
		l, d := m.count()
		sent, lost, doubled = sent+m.sent, lost+l, doubled+d
		m.got = m.got[:max(0, len(m.got)-1)]
		if l == 0 && d == 0 && m.check() != nil {
			disordered++
		}
		m.conn().Close()
	}
	t.Logf("%d messages: %d lost, %d doubled; %d clients got some out of order", sent, lost, doubled, disordered)
	if lost != 0 || doubled != 0 {
		t.Error("each has to arrive once")
	}

	t.Run("probes", func(t *testing.T) { // without its server a gateway is not ready, and is not restarted
		restarts := func() string {
			return kubectl(t, "-n", namespace, "get", "pods", "-l", selector, "-o", "jsonpath={.items[*].status.containerStatuses[0].restartCount}")
		}
		before := restarts()
		kubectl(t, "-n", namespace, "scale", "deployment/prosody", "--replicas", "0")
		kubectl(t, "-n", namespace, "wait", "--for", "jsonpath={.status.unavailableReplicas}=3", "deployment/xmppgate", "--timeout", "1m")
		time.Sleep(15 * time.Second) // more than one liveness probe
		if after := restarts(); before != after {
			t.Errorf("restarts %s became %s", before, after)
		}
	})
}

// killGateway sends SIGKILL to one gateway process.
func killGateway(t *testing.T) {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range found {
		if target, err := os.Readlink(link); err != nil || target != "/xmppgate" {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(filepath.Dir(link), "environ"))
		if err != nil || !bytes.Contains(text, []byte("XMPPGATE_CONFIG=")) { // of the fleet
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatal("no gateway process")
}
