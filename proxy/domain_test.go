package proxy

import (
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/net/idna"
)

func TestNormalDomain(t *testing.T) {
	for in, want := range map[string]string{
		"":                      "",
		"Example.ORG":           "example.org",
		"example.org.":          "example.org",
		"Bücher.example":        "xn--bcher-kva.example",
		"xn--BCHER-KVA.example": "xn--bcher-kva.example",
		"a_b.Example":           "a_b.example",
		"[2001:DB8::1]":         "[2001:db8::1]",
		"192.0.2.1":             "192.0.2.1",
		"no domain at ALL.":     "no domain at all",
	} {
		if got := NormalDomain(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
		if again := NormalDomain(want); again != want {
			t.Errorf("%q becomes %q", want, again)
		}
	}
}

// Clients choose what is converted. The longest name may take a bounded amount of
// memory, and a longer one takes none.
func TestNormalDomainIsBounded(t *testing.T) {
	for _, what := range []string{"a", ".", "a.", "A.", "ü", "ü.", "xn--", "xn--a.", "xn--bcher-kva.", "\u0300", "\u200d", "\uff0e", "א", "אa", "\U00010437", "ß", "\xff", "İ", "-"} {
		allocations := func(n int) float64 {
			s := strings.Repeat(what, n)
			return testing.AllocsPerRun(5, func() { NormalDomain(s) })
		}
		// Some four for each label of three bytes, and their errors.
		if n := allocations(maxDomain / len(what)); n > 4*maxDomain {
			t.Errorf("%q: %v allocations", what, n)
		}
		if n := allocations(maxDomain); len(what) > 1 && n > 0 {
			t.Errorf("%q, too long: %v allocations", what, n)
		}
		long := strings.Repeat(what, 1<<20/len(what))
		if got := NormalDomain(long); got != long {
			t.Errorf("%q, far too long: changed", what)
		}
	}
}

// Names that are returned as they are would be returned as they are anyway.
func TestNormalDomainShortcut(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		labels := make([]string, 1+r.IntN(4))
		for i := range labels {
			b := []byte([]string{"", "a", "-"}[r.IntN(3)])
			for range r.IntN(12) {
				b = append(b, "abcxyz0189--"[r.IntN(12)])
			}
			labels[i] = string(b)
		}
		s := strings.Join(labels, ".")
		if !isNormal(s) {
			t.Fatalf("%q takes the long way", s)
		}
		if a, err := idna.Lookup.ToASCII(s); err == nil && a != s {
			t.Fatalf("%q becomes %q", s, a)
		}
	}
}
