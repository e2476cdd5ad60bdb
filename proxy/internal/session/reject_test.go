package session

import (
	"slices"
	"strings"
	"testing"
)

// Who is refused because there is too much of something is told when to come back; who does
// something wrong is not.
//
// RFC 6585, section 4; RFC 9110, section 15.6.4
func TestRefusalsTellWhenToComeBack(t *testing.T) {
	for _, r := range slices.Concat(rejections, limitRejections[1:]) {
		later := r.status == 429 || r.status == 503
		if got := strings.HasPrefix(r.header, "Retry-After: "); got != later {
			t.Errorf("%s, status %d: Retry-After is %v", r.result, r.status, got)
		}
	}
}
