package upstream

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
)

// Policies order the servers of a domain for a session, which tries them one after
// another.
const (
	// PolicyFirst keeps the configured order: a main server, then the spares.
	PolicyFirst = "first"
	// PolicyRoundRobin starts with the next server each time.
	PolicyRoundRobin = "round-robin"
	// PolicyLeastSessions starts with the server that has the fewest
	// sessions of this gateway, and takes equal ones in rotation.
	PolicyLeastSessions = "least-sessions"
	// PolicyHash sends a user to the same server each time, from every replica
	// of the gateway and for any order of the configured servers, so that a
	// stream can be resumed (XEP-0198). If a server fails only its users move.
	PolicyHash = "hash"
)

// A policy sorts candidates for one session. sequence counts the sessions.
type policy func(all []candidate, sequence uint32, q *Request)

var policies = map[string]policy{
	PolicyFirst:         func([]candidate, uint32, *Request) {},
	PolicyRoundRobin:    rotate,
	PolicyLeastSessions: leastSessions,
	PolicyHash:          highestScore,
}

// Policies returns the names of all policies.
func Policies() []string { return slices.Sorted(maps.Keys(policies)) }

// order returns the servers in the order in which q tries them: those that are up;
// those that are down, because if all are down trying is better than refusing; the
// one to avoid.
func (s *search) order(group []candidate, q *Request) []candidate {
	const up, down, avoid = 0, 1, 2
	var classes [3][]candidate
	for _, c := range group {
		class := up
		switch {
		case c.name == q.Avoid:
			class = avoid
		case !c.up():
			class = down
		}
		classes[class] = append(classes[class], c)
	}
	sequence := s.sequence.Add(1) - 1
	for _, class := range classes {
		s.policy(class, sequence, q)
	}
	return slices.Concat(classes[:]...)
}

func rotate(all []candidate, sequence uint32, _ *Request) {
	if len(all) > 0 {
		n := int(sequence % uint32(len(all)))
		copy(all, slices.Concat(all[n:], all[:n]))
	}
}

func leastSessions(all []candidate, sequence uint32, q *Request) {
	rotate(all, sequence, q)
	sortBy(all, func(c candidate) int64 { return c.sessions.Load() })
}

// highestScore is rendezvous hashing: each server has a score for the user that
// depends on nothing else.
func highestScore(all []candidate, _ uint32, q *Request) {
	key := q.user()
	sortBy(all, func(c candidate) uint64 { return ^score(c.name, key) })
}

// user is what PolicyHash knows a user by.
func (q *Request) user() string {
	key := strings.ToLower(q.JID)
	if key == "" && q.Client.IsValid() {
		key = q.Client.Addr().Unmap().String()
	}
	return cmp.Or(key, q.ID)
}

// byUser sorts SRV records by priority and, among those of the same priority, by
// weighted rendezvous hashing: each target is the first of as many users as its
// weight says, and when it is lost only they move.
func byUser(all []record, q *Request) {
	key := q.user()
	type weighted struct {
		record
		weight float64
	}
	sorted := make([]weighted, len(all))
	for i, r := range all { // once each: hashing is what costs
		target := net.JoinHostPort(strings.ToLower(r.Target), strconv.Itoa(int(r.Port)))
		share := (float64(score(target, key)) + 0.5) / (1 << 64) // above 0, at most 1
		sorted[i] = weighted{r, -max(float64(r.Weight), leastWeight) / math.Log(min(share, 1-0x1p-53))}
	}
	slices.SortFunc(sorted, func(a, b weighted) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(b.weight, a.weight))
	})
	for i, r := range sorted {
		all[i] = r.record
	}
}

// leastWeight stands for 0, which is "a very small chance" (RFC 2782) beside
// other weights, and an equal one beside its like.
const leastWeight = 0.001

// score is the first 8 bytes, in network order, of the SHA-256 hash of the
// server's name, a zero byte and the key. Replicas of different releases have
// to agree on it.
func score(server, key string) uint64 {
	sum := sha256.Sum256([]byte(server + "\x00" + key))
	return binary.BigEndian.Uint64(sum[:])
}

// sortBy sorts by a key that is asked for once each: it may change meanwhile.
func sortBy[K cmp.Ordered](all []candidate, key func(candidate) K) {
	type keyed struct {
		key K
		candidate
	}
	sorted := make([]keyed, len(all))
	for i, c := range all {
		sorted[i] = keyed{key(c), c}
	}
	slices.SortStableFunc(sorted, func(a, b keyed) int { return cmp.Compare(a.key, b.key) })
	for i, k := range sorted {
		all[i] = k.candidate
	}
}
