//go:build roots

package main

import (
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// systemctl stands for systemd in a root: it knows whether the service runs and runs the
// ExecReload= of the unit, with its user and settings.
const systemctl = `#!/bin/sh
echo "$@" >>/systemctl.log
case "$*" in
*is-active*) [ -e /active ] ;;
"reload xmppgate.service") XMPPGATE_CONFIG=/etc/xmppgate/xmppgate.env $(sed -n 's/^ExecReload=//p' /usr/lib/systemd/system/xmppgate.service) ;;
esac
`

// The image of all platforms is small enough, and podman loads it and runs it.
func TestImage(t *testing.T) {
	r, err := open("../..", t.TempDir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []func(*release) error{(*release).binaries, (*release).image, (*release).sbom} {
		if err := step(r); err != nil {
			t.Fatal(err)
		}
	}
	testImage(t, r)
	testSBOM(t, r)
	out := shell(t, `podman() { command podman --root "$dir/store" --runroot "$dir/run" --storage-driver vfs --runtime runc --cgroup-manager=cgroupfs "$@"; }
		dir=$1; cd "$2"; eval "$3"
		podman run --rm --no-healthcheck --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --network=host --read-only \
			--cap-drop=all --security-opt no-new-privileges "$(podman images -q)" version`, t.TempDir(), r.Out, documented(t, r, "podman load"))
	if !strings.Contains(out, "xmppgate v"+r.Version+" (") {
		t.Error(out)
	}
}

// managers are the programs that install packages. Each script gets a root, in whose top
// directory the package lies, and the command of docs/install.md.
var managers = []struct {
	format, command, install, remove string
	kept                             string // what a removal leaves of changed settings
}{
	{"deb", "dpkg -i", `chroot "$1" sh -ec "$2"`, `chroot "$1" dpkg -r xmppgate`, "xmppgate.env"},
	// In a root of Debian nothing provides what Fedora calls shadow-utils.
	{"rpm", "rpm -U", `cd "$1"; eval "$2 --root $1 --force-debian --nodeps"`, `rpm --root "$1" --force-debian -e xmppgate`, "xmppgate.env.rpmsave"},
	// Debian has no apk: these are its steps, and busybox runs the scripts as on Alpine.
	{"apk", "apk add", `cd "$1"; mkdir -p unpacked; cp /bin/busybox bin/busybox
		script=.post-install; [ ! -e usr/bin/xmppgate ] || script=.post-upgrade
		tar -xz -f "${2##* }" -C unpacked
		[ ! -e etc/xmppgate/xmppgate.env ] || rm unpacked/etc/xmppgate/xmppgate.env
		cp -a --remove-destination unpacked/. .
		chroot . busybox sh $script 2-r0 1-r0; rm -r unpacked`, `cd "$1"; chroot . busybox sh .pre-deinstall 2-r0
		tar -tz -f "$(ls -t *.apk | head -n 1)" | while read -r file; do
			case $file in .* | */ | etc/*) ;; *) rm "$file" ;; esac
		done
		chroot . busybox sh .post-deinstall 2-r0`, "xmppgate.env"},
}

// Packages are installed, upgraded under sessions, and removed in a clean Debian.
func TestPackages(t *testing.T) {
	older := built(t)
	newer := *older
	newer.Version += "1" // sorts after it
	newer.Out = t.TempDir()
	for _, step := range []func(*release) error{(*release).binaries, (*release).packages} {
		if err := step(&newer); err != nil {
			t.Fatal(err)
		}
	}
	clean := t.TempDir()
	shell(t, `debootstrap --variant=minbase bookworm "$1" http://deb.debian.org/debian
		mkdir -p "$1/run/systemd/system"`, clean)
	if err := os.WriteFile(clean+"/usr/bin/systemctl", []byte(systemctl), 0o755); err != nil {
		t.Fatal(err)
	}
	server := startProsody(t)
	for _, m := range managers {
		t.Run(m.format, func(t *testing.T) {
			root := t.TempDir()
			shell(t, `cp -a "$1/." "$2"; cp "$3" "$2"; cp "$4" "$2"; mount -t proc proc "$2/proc"`,
				clean, root, older.packageFile(targets[0], m.format), newer.packageFile(targets[0], m.format))
			t.Cleanup(func() {
				shell(t, `for p in /proc/[0-9]*; do [ "$(readlink "$p/root")" = "$1" ] && kill "${p#/proc/}"; done; umount -l "$1/proc"`, root)
			})
			in := func(script string) string { t.Helper(); return shell(t, `chroot "$1" sh -ec "$2"`, root, script) }

			shell(t, m.install, root, documented(t, older, m.command))
			if got := in("getent passwd xmppgate"); !strings.Contains(got, "nologin") {
				t.Errorf("the user is %q", got)
			}
			if log := in("cat /systemctl.log"); strings.Contains(log, "reload xmppgate") || strings.Contains(log, "start") {
				t.Errorf("the installation started something: %s", log)
			}

			in(documented(t, older, "XMPPGATE_CONFIG="))

			// The gateway as the service would run it.
			front, admin := free(t), free(t)
			settings := "XMPPGATE_UPSTREAM=tcp://" + server + "\nXMPPGATE_LISTEN=" + front + "\nXMPPGATE_ADMIN_LISTEN=" + admin + "\n"
			if err := os.WriteFile(root+configFile, []byte(settings), 0o644); err != nil {
				t.Fatal(err)
			}
			gateway := exec.Command("chroot", "--userspec=xmppgate:xmppgate", root, "/usr/bin/xmppgate")
			gateway.Env = []string{"XMPPGATE_CONFIG=" + configFile, "PATH=/usr/bin:/bin"}
			gateway.Stderr = os.Stderr
			if err := gateway.Start(); err != nil {
				t.Fatal(err)
			}
			oldEnded := make(chan error, 1)
			go func() { oldEnded <- gateway.Wait() }()
			t.Cleanup(func() { gateway.Process.Kill() })
			await(t, func() bool { return status(admin, "/healthz") == http.StatusOK })
			in("touch /active")
			juliet := login(t, front, "juliet")

			shell(t, m.install, root, documented(t, &newer, m.command))
			if log := in("cat /systemctl.log"); !strings.Contains(log, "\nreload xmppgate.service\n") || strings.Contains(log, "restart") || strings.Contains(log, "disable") {
				t.Errorf("the upgrade did not reload alone: %s", log)
			}
			if got := in("cat " + configFile); got != settings {
				t.Errorf("the upgrade changed the settings to %q", got)
			}
			if got := in("xmppgate version"); !strings.Contains(got, "v"+newer.Version+" ") {
				t.Errorf("the program is %s", got)
			}
			if got := status(admin, "/healthz"); got != http.StatusOK {
				t.Errorf("after the upgrade /healthz answers %d", got)
			}
			select {
			case err := <-oldEnded:
				if err != nil {
					t.Errorf("the old version: %v", err)
				}
			case <-time.After(time.Minute):
				t.Error("the old version did not end")
			}
			// The session from before goes on, in both directions.
			romeo := login(t, front, "romeo")
			romeo.message("juliet", "wherefore")
			juliet.await("wherefore")
			juliet.message("romeo", "therefore")
			romeo.await("therefore")
			romeo.close()
			juliet.close()

			shell(t, m.remove, root)
			if log := in("cat /systemctl.log"); !strings.Contains(log, "disable --now xmppgate.service") {
				t.Errorf("the removal did not stop the service: %s", log)
			}
			if got := in("ls /etc/xmppgate"); strings.TrimSpace(got) != m.kept {
				t.Errorf("after the removal /etc/xmppgate has %q", got)
			}
			if m.format == "deb" {
				in("dpkg -P xmppgate; [ ! -e " + configFile + " ]")
			}
			in("[ ! -e /usr/bin/xmppgate ]; [ ! -e /usr/lib/systemd/system/xmppgate.service ]")
		})
	}
}

// startProsody starts a Prosody with two accounts and returns its address.
func startProsody(t *testing.T) string {
	t.Helper()
	dir, address := t.TempDir(), free(t)
	_, port, _ := strings.Cut(address, ":")
	config := fmt.Sprintf(`run_as_root = true
pidfile = "%[1]s/prosody.pid"
data_path = "%[1]s/data"
interfaces = { "127.0.0.1" }
c2s_ports = { %[2]s }
c2s_direct_tls_ports = { }
modules_enabled = { "roster", "saslauth", "disco", "posix", "smacks" }
modules_disabled = { "s2s", "tls" }
authentication = "internal_plain"
allow_unencrypted_plain_auth = true
c2s_require_encryption = false
log = { warn = "*console" }
VirtualHost "localhost"
`, dir, port)
	accounts := filepath.Join(dir, "data/localhost/accounts")
	if err := os.MkdirAll(accounts, 0o700); err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{
		filepath.Join(dir, "prosody.cfg.lua"): config,
		filepath.Join(accounts, "juliet.dat"): `return { password = "secret" }`,
		filepath.Join(accounts, "romeo.dat"):  `return { password = "secret" }`,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	prosody := exec.Command("prosody", "-F", "--config", filepath.Join(dir, "prosody.cfg.lua"))
	prosody.Stdout, prosody.Stderr = os.Stderr, os.Stderr
	if err := prosody.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { prosody.Process.Kill(); prosody.Wait() })
	await(t, func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return address
}

// A session is that of a client.
type session struct {
	t    *testing.T
	conn net.Conn
}

// login logs in over WebSocket.
func login(t *testing.T, address, name string) *session {
	t.Helper()
	conn, _, _, err := ws.Dialer{Protocols: []string{"xmpp"}}.Dial(t.Context(), "ws://"+address+"/xmpp-websocket")
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(3 * time.Minute))
	s := &session{t, conn}
	const open = "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='localhost' version='1.0'/>"
	s.send(open)
	s.await("PLAIN</mechanism>")
	s.send("<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>" + base64.StdEncoding.EncodeToString([]byte("\x00"+name+"\x00secret")) + "</auth>")
	s.await("<success")
	s.send(open)
	s.await("urn:ietf:params:xml:ns:xmpp-bind")
	s.send("<iq type='set' id='bind' xmlns='jabber:client'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><resource>test</resource></bind></iq>")
	s.await("/test</jid>")
	return s
}

func (s *session) send(text string) {
	s.t.Helper()
	if err := wsutil.WriteClientText(s.conn, []byte(text)); err != nil {
		s.t.Fatal(err)
	}
}

// message sends a message to the session of another account.
func (s *session) message(to, text string) {
	s.t.Helper()
	s.send("<message xmlns='jabber:client' type='chat' to='" + to + "@localhost/test'><body>" + text + "</body></message>")
}

// await reads until a message with that text.
func (s *session) await(text string) {
	s.t.Helper()
	for {
		got, err := wsutil.ReadServerText(s.conn)
		if err != nil {
			s.t.Fatalf("instead of %q: %v", text, err)
		}
		if strings.Contains(string(got), text) {
			return
		}
	}
}

// close closes the stream.
func (s *session) close() {
	s.t.Helper()
	s.send("<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>")
	s.await("<close")
	s.conn.Close()
}
