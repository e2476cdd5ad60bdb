package proxy

import (
	"strings"
	"testing"
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
