package main

import (
	"testing"

	"xmppgate/proxy"
	"xmppgate/proxy/upstream"
)

// Every result of a dial is one of opening a stream.
func TestDialResultsAreOpenResults(t *testing.T) {
	known := map[string]bool{}
	for _, r := range upstream.Results() {
		known[r] = true
	}
	for _, r := range proxy.DialResults() {
		if !known[r] {
			t.Errorf("%q would not be counted", r)
		}
	}
}
