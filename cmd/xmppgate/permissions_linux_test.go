package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func modeAndGroup(t *testing.T, path string) (fs.FileMode, int) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm(), int(info.Sys().(*syscall.Stat_t).Gid)
}

// A socket gets its mode and group, whatever the umask is, and the umask is as
// before.
func TestSocketPermissions(t *testing.T) {
	group := os.Getgid()
	if os.Getuid() == 0 {
		group = 33 // www-data; root may give it to anybody
	}
	for _, umask := range []int{0, 0o022, 0o077} {
		old := syscall.Umask(umask)
		for options, want := range map[string]fs.FileMode{
			"":           0o777 &^ fs.FileMode(umask),
			"?mode=0660": 0o660, "?mode=0600": 0o600, "?mode=666": 0o666, "?mode=0777": 0o777,
			"?group=" + strconv.Itoa(group):             0o660,
			"?mode=0620&group=" + strconv.Itoa(group):   0o620,
			"?group=" + strconv.Itoa(group) + "&mode=0": 0, // refused
		} {
			path := filepath.Join(t.TempDir(), "s")
			a, err := parseListen("unix:" + path + options)
			if want == 0 {
				if err == nil {
					t.Errorf("%s is accepted", options)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			l, err := listen(a)
			if err != nil {
				t.Fatal(err)
			}
			mode, gid := modeAndGroup(t, path)
			if mode != want || strings.Contains(options, "group") && gid != group {
				t.Errorf("umask %o, %q: mode %o, group %d; want %o, %d", umask, options, mode, gid, want, group)
			}
			l.Close()
			if _, err := os.Lstat(path); err == nil {
				t.Error("the socket stays behind")
			}
		}
		if got := syscall.Umask(old); got != umask {
			t.Errorf("the umask was %o and is %o", umask, got)
		}
	}
}

// Between bind and chmod nobody may connect.
func TestSocketIsClosedToAllAtFirst(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	path := filepath.Join(t.TempDir(), "s")
	l, err := listenAddress{network: "unix", name: path, restricted: true, mode: 0o660, gid: -1}.bind()
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if mode, _ := modeAndGroup(t, path); mode != 0 {
		t.Errorf("mode %o", mode)
	}
}
