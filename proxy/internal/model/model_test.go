package model

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// No entry of the server begins with another one, and none of the client is on the list
// twice, so that what comes is one of them.
func TestMessagesAreTold(t *testing.T) {
	for i, a := range server {
		for j, b := range server {
			if i != j && strings.HasPrefix(a.text, b.text) {
				t.Errorf("%q begins with %q", a.text, b.text)
			}
		}
	}
	for i := range client {
		if e := clientMessage(strings.ReplaceAll(client[i].text, "####", "1234")); e != &client[i] {
			t.Errorf("%q is on the list twice", client[i].text)
		}
	}
}

// A seed says which actions there are.
func TestGenerateIsRepeatable(t *testing.T) {
	cfg := Config{MaxStanza: 12_000, MaxServerStanza: 400_000, Stalls: true}
	pages := [2]string{}
	for i := range pages {
		r := rand.New(rand.NewPCG(7, 0))
		for range 20 {
			for _, a := range Generate(r, cfg, 40) {
				pages[i] += a.String() + "\n"
			}
		}
	}
	if pages[0] != pages[1] || len(pages[0]) < 1000 {
		t.Error("the same seed makes other actions")
	}
}

// Of many actions those remain without which it does not fail.
func TestShrink(t *testing.T) {
	all := make([]Action, 100)
	for i := range all {
		all[i].Pass = 1
	}
	all[17].Pass, all[63].Pass = 2, 3
	got := Shrink(all, func(some []Action) bool {
		i := slices.IndexFunc(some, func(a Action) bool { return a.Pass == 2 })
		j := slices.IndexFunc(some, func(a Action) bool { return a.Pass == 3 })
		return i >= 0 && i < j
	})
	if len(got) != 2 || got[0].Pass != 2 || got[1].Pass != 3 {
		t.Errorf("got %v", got)
	}
}
