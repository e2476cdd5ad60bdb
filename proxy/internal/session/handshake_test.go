package session

import (
	"slices"
	"testing"
)

// Each refusal is one of the results that the observer is promised.
func TestUpgradeResults(t *testing.T) {
	results := UpgradeResults()
	for _, rule := range handshakeRules {
		if !slices.Contains(results, rule.rejection.result) {
			t.Errorf("%q is not in %v", rule.rejection.result, results)
		}
	}
	if s := slices.Compact(slices.Sorted(slices.Values(results))); len(s) != len(results) {
		t.Errorf("results are not unique: %v", results)
	}
}
