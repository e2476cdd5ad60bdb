package framing

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
)

var update = flag.Bool("update", false, "rewrite the outputs of the vectors")

// A vector is one file of testdata. The comment of the archive says what it
// shows, which behaviours of proxy/testdata/CONFORMANCE.md it belongs to and
// where the rule stands; a line more may say what fields of FeatureFilter are set. Its
// files, each without its last line end:
//
//	in     the input; in.go is the same as a Go string, for odd bytes
//	kind   kind and class of each unit, one a line
//	out    the bytes that result, one file for each unit
//	error  condition and offset, if the input is refused at some point
type vector struct {
	path    string
	archive *txtar.Archive
	in      []byte
	fields  string // of FeatureFilter, see filterFields
}

func (v vector) name() string { return strings.TrimSuffix(filepath.Base(v.path), ".txtar") }

var vectorComment = regexp.MustCompile(`^[A-Z].*\.\nBehaviour: [a-z0-9, -]+\n(RFC \d+|XEP-\d{4}|XML 1\.0|Namespaces in XML 1\.0), section [\d.]+\n(?:Filter: (.+)\n)?$`)

// filterFields are the fields of FeatureFilter that the comment of a vector can
// set.
var filterFields = map[string]func(*FeatureFilter){
	"ChannelBindingStrip":    func(f *FeatureFilter) { f.ChannelBinding = ChannelBindingStrip },
	"ChannelBindingEndPoint": func(f *FeatureFilter) { f.ChannelBinding = ChannelBindingEndPoint },
	"NoExternal":             func(f *FeatureFilter) { f.NoExternal = true },
}

// filter returns the FeatureFilter that v goes through.
func (v vector) filter(tb testing.TB) *FeatureFilter {
	tb.Helper()
	f := &FeatureFilter{MaxStanza: 65536}
	for name := range strings.SplitSeq(v.fields, ", ") {
		if set := filterFields[name]; set != nil {
			set(f)
		} else if name != "" {
			tb.Fatalf("%s: FeatureFilter has no field %s that a vector can set; there are %v", v.path, name, slices.Sorted(maps.Keys(filterFields)))
		}
	}
	return f
}

func vectors(tb testing.TB, dir string) (all []vector) {
	tb.Helper()
	paths, err := filepath.Glob(filepath.Join("testdata", dir, "*.txtar"))
	if err != nil || len(paths) == 0 {
		tb.Fatal("no vectors", err)
	}
	for _, path := range paths {
		archive, err := txtar.ParseFile(path)
		if err != nil {
			tb.Fatal(err)
		}
		v := vector{path: path, archive: archive}
		c := strings.Replace(string(archive.Comment), ", section 11\n", ", section 11.0\n", 1)
		if m := vectorComment.FindStringSubmatch(c); m != nil {
			v.fields = m[len(m)-1]
		} else {
			tb.Errorf("%s: bad comment %q; testdata/README.md says what it must be like", path, c)
		}
		switch f := archive.Files[0]; f.Name {
		case "in":
			v.in = bytes.TrimSuffix(f.Data, []byte("\n"))
		case "in.go":
			s, err := strconv.Unquote(strings.TrimSpace(string(f.Data)))
			if err != nil {
				tb.Fatalf("%s: %v", path, err)
			}
			v.in = []byte(s)
		default:
			tb.Fatalf("%s: the first file is %s; it must be in or in.go", path, f.Name)
		}
		all = append(all, v)
	}
	return all
}

// A result is what an input gave, in the form of the files of a vector.
type result struct {
	kinds []string
	outs  []string
	err   string
}

func (r *result) files() (files []txtar.File) {
	add := func(name, data string) {
		files = append(files, txtar.File{Name: name, Data: []byte(data + "\n")})
	}
	if len(r.kinds) > 0 {
		add("kind", strings.Join(r.kinds, "\n"))
	}
	for _, out := range r.outs {
		add("out", out)
	}
	if r.err != "" {
		add("error", r.err)
	}
	return files
}

func (r *result) fail(err error) {
	var e *Error
	if !errors.As(err, &e) || e.Err == nil {
		r.err = "not an *Error: " + err.Error()
		return
	}
	what := string(e.Condition)
	if errors.Is(err, ErrNotText) {
		what = "not-text"
	}
	r.err = fmt.Sprintf("%s %d", what, e.Offset)
}

// check compares r with the vector, or rewrites the vector.
func (v vector) check(t *testing.T, r *result) {
	t.Helper()
	files := r.files()
	if *update {
		v.archive.Files = append(v.archive.Files[:1:1], files...)
		if err := os.WriteFile(v.path, txtar.Format(v.archive), 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	got := txtar.Format(&txtar.Archive{Files: files})
	want := txtar.Format(&txtar.Archive{Files: v.archive.Files[1:]})
	if !bytes.Equal(got, want) {
		t.Errorf("%s: %s\nin:\n%q\ngot:\n%swant:\n%s\nIf that is right: go test ./framing -run '%s' -update", v.path, firstLine(v.archive.Comment), v.in, got, want, t.Name())
	}
}

func firstLine(b []byte) string {
	line, _, _ := strings.Cut(string(b), "\n")
	return line
}

func kindName(k Kind, c Class) string {
	if k == KindElement {
		return k.String() + " " + c.String()
	}
	return k.String()
}

func parseUp(p *MessageParser, msg []byte) *result {
	r := new(result)
	m, err := parse(p, msg)
	if err != nil {
		r.fail(err)
		return r
	}
	kind := kindName(m.Kind, m.Class)
	if m.Mechanism == MechanismExternal {
		kind += " External"
	}
	r.kinds = []string{kind}
	switch m.Kind {
	case KindHeader:
		r.outs = []string{string(AppendStreamHeader(nil, m.Header))}
	case KindEnd:
		r.outs = []string{EndTag}
	case KindElement:
		r.outs = []string{string(m.Raw)}
	}
	return r
}

func TestUpVectors(t *testing.T) {
	var p MessageParser // one for all: nothing may be left over
	for _, v := range vectors(t, "up") {
		t.Run(v.name(), func(t *testing.T) {
			v.check(t, parseUp(&p, v.in))
		})
	}
}

// runDown feeds in to a StreamSplitter in the pieces that size gives, moving the bytes each
// time, and returns what comes of it.
func runDown(filter *FeatureFilter, in []byte, size func() int) *result {
	var d StreamSplitter
	r := new(result)
	var b []byte
	var u StreamUnit
	for fed := 0; ; {
		n, err := d.Next(b, &u)
		if err != nil {
			r.fail(err)
			return r
		}
		if n > len(b) {
			r.err = "consumed more than there was"
			return r
		}
		if u.Kind == KindNone {
			if fed == len(in) {
				return r
			}
			k := min(max(size(), 1), len(in)-fed)
			b = append(append([]byte(nil), b[n:]...), in[fed:fed+k]...)
			fed += k
			continue
		}
		r.kinds = append(r.kinds, kindName(u.Kind, u.Class))
		r.outs = append(r.outs, message(&u, filter))
		b = b[n:]
	}
}

// message returns the message for u, through the filter unless that is nil.
func message(u *StreamUnit, filter *FeatureFilter) string {
	switch {
	case u.Kind == KindHeader:
		return string(AppendOpen(nil, u.Header))
	case u.Kind == KindEnd:
		return CloseMessage
	case u.Class == ClassFeatures && filter != nil:
		return string(filter.AppendMessage(nil, u))
	}
	head, tail := u.AppendHead(nil)
	out := string(head) + string(tail)
	if len(out) != u.Size() {
		return fmt.Sprintf("%d bytes announced, got %q", u.Size(), out)
	}
	return out
}

func TestDownVectors(t *testing.T) {
	for _, dir := range []string{"down", "features"} {
		for _, v := range vectors(t, dir) {
			t.Run(v.name(), func(t *testing.T) {
				run := func(size func() int) *result {
					return runDown(v.filter(t), v.in, size)
				}
				whole := run(func() int { return len(v.in) })
				v.check(t, whole)
				want := fmt.Sprint(whole)
				if got := fmt.Sprint(run(func() int { return 1 })); got != want {
					t.Errorf("byte by byte: got %s\nwant %s", got, want)
				}
				for cut := 1; cut < len(v.in); cut++ {
					first := true
					size := func() int {
						if first {
							first = false
							return cut
						}
						return len(v.in)
					}
					if got := fmt.Sprint(run(size)); got != want {
						t.Errorf("cut at %d: got %s\nwant %s", cut, got, want)
					}
				}
			})
		}
	}
}
