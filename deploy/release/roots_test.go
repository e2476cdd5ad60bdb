//go:build roots

package main

import (
	"bufio"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
	out := shell(t, `dir=$1 file=$2 version=$3
		podman() { command podman --root "$dir/store" --runroot "$dir/run" --storage-driver vfs --runtime runc --cgroup-manager=cgroupfs "$@"; }
		podman load -q -i "$file"
		podman run --rm --no-healthcheck --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --network=host --read-only \
			--cap-drop=all --security-opt no-new-privileges "localhost/xmppgate:$version" version`, t.TempDir(), r.imageFile(), r.Version)
	if !strings.Contains(out, "xmppgate v"+r.Version+" (") {
		t.Error(out)
	}
}

// A .deb is installed, upgraded under a live session, and removed in a clean Debian.
func TestDebian(t *testing.T) {
	older := built(t)
	newer := *older
	newer.Version += "1" // sorts after it
	newer.Out = t.TempDir()
	for _, step := range []func(*release) error{(*release).binaries, (*release).packages} {
		if err := step(&newer); err != nil {
			t.Fatal(err)
		}
	}
	root := t.TempDir()
	shell(t, `debootstrap --variant=minbase bookworm "$1" http://deb.debian.org/debian`, root)
	shell(t, `mount -t proc proc "$1/proc"`, root)
	t.Cleanup(func() { shell(t, `umount "$1/proc"`, root) })
	shell(t, `mkdir -p "$1/run/systemd/system"; cp "$2" "$1/old.deb"; cp "$3" "$1/new.deb"`, root, older.packageFile(targets[0], "deb"), newer.packageFile(targets[0], "deb"))
	if err := os.WriteFile(root+"/usr/bin/systemctl", []byte(systemctl), 0o755); err != nil {
		t.Fatal(err)
	}
	in := func(script string) string { t.Helper(); return shell(t, `chroot "$1" sh -ec "$2"`, root, script) }

	in("dpkg -i /old.deb")
	if got := in("getent passwd xmppgate"); !strings.Contains(got, "nologin") {
		t.Errorf("the user is %q", got)
	}
	if log := in("cat /systemctl.log"); strings.Contains(log, "reload xmppgate") || strings.Contains(log, "start") {
		t.Errorf("the installation started something: %s", log)
	}

	// A server that greets, and the gateway as the service would run it.
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	front, admin := free(t), free(t)
	settings := "XMPPGATE_UPSTREAM=tcp://" + server.Addr().String() + "\nXMPPGATE_LISTEN=" + front + "\nXMPPGATE_ADMIN_LISTEN=" + admin + "\n"
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

	client, err := net.Dial("tcp", front)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	client.SetDeadline(time.Now().Add(time.Minute))
	if _, err := client.Write([]byte("GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: xmpp\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(client)
	if answer, err := http.ReadResponse(reader, nil); err != nil || answer.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", answer, err)
	}

	in("dpkg -i /new.deb")
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
	// A ping of the session from before is answered.
	if _, err := client.Write([]byte{0x89, 0x80, 0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	if pong, err := reader.Peek(2); err != nil || pong[0] != 0x8a {
		t.Errorf("the session ended by the upgrade: %x, %v", pong, err)
	}
	client.Close()
	select {
	case err := <-oldEnded:
		if err != nil {
			t.Errorf("the old version: %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("the old version did not end")
	}

	in("dpkg -r xmppgate")
	if log := in("cat /systemctl.log"); !strings.Contains(log, "disable --now xmppgate.service") {
		t.Errorf("the removal did not stop the service: %s", log)
	}
	if got := in("ls /etc/xmppgate"); strings.TrimSpace(got) != filepath.Base(configFile) {
		t.Errorf("after the removal /etc/xmppgate has %q", got)
	}
	in("dpkg -P xmppgate; [ ! -e " + configFile + " ]; [ ! -e /usr/bin/xmppgate ]")
	shell(t, `for p in /proc/[0-9]*; do [ "$(readlink "$p/root")" = "$1" ] && kill "${p#/proc/}"; done; true`, root)
}
