package upstream

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync/atomic"
)

// A table is a Config and what was made of it. It never changes, so that a lookup
// takes no lock. What is found out about a server is in its node, and a node goes from
// one table to the next.
type table struct {
	resolver *net.Resolver
	policy   policy
	hashes   bool                   // PolicyHash
	routes   map[string][]candidate // by domain
	fallback []candidate            // of any other domain
	all      []candidate            // one for each node
	byName   map[string]candidate   // the same
	servers  map[string]*Server     // by Server.url
	static   *staticRoute
}

// A candidate is a server that a session may be sent to. Servers with the same
// name, which can differ only in their options, share one node.
type candidate struct {
	*node
	server  *Server
	service *service // finds the endpoints of srv:; else nil
	domain  string   // what health checks name in to; empty if the operator named none
}

// newTable makes a table of c. What has not changed since old is taken from there. The
// error joins everything that is wrong with c.
func newTable(c Config, old *table) (*table, error) {
	name := cmp.Or(c.Policy, PolicyHash)
	t := &table{
		resolver: c.Resolver,
		policy:   policies[name],
		hashes:   name == PolicyHash,
		routes:   map[string][]candidate{},
		byName:   map[string]candidate{},
		servers:  map[string]*Server{},
	}
	var errs []error
	if t.policy == nil {
		errs = append(errs, fmt.Errorf("unknown policy %q; there are %s", c.Policy, strings.Join(Policies(), ", ")))
	}
	for _, s := range c.Default {
		if s.anyDomain() && len(c.AllowList) == 0 {
			errs = append(errs, fmt.Errorf("server %s: needs a list of the domains that DNS may be asked about", s.Name))
		}
	}
	for _, domain := range slices.Concat(c.AllowList, slices.Sorted(maps.Keys(c.Routes))) {
		servers, routed := c.Routes[domain]
		if !routed {
			servers = c.Default
		} else if len(servers) == 0 {
			errs = append(errs, fmt.Errorf("the route of %s has no server", domain))
		}
		group, err := t.newGroup(domain, servers, old)
		if err != nil {
			errs = append(errs, err)
		}
		t.routes[domain] = group
	}
	var err error
	if t.fallback, err = t.newGroup("", c.Default, old); err != nil {
		errs = append(errs, err)
	}
	if len(t.all) == 0 && len(errs) == 0 {
		errs = append(errs, errors.New("no server configured"))
	}
	if err := joinOnce(errs); err != nil {
		return nil, err
	}
	t.static = t.newStatic(old)
	return t, nil
}

// joinOnce joins errors, but not one that was found in several groups.
func joinOnce(errs []error) error {
	seen := map[string]bool{}
	return errors.Join(slices.DeleteFunc(errs, func(err error) bool {
		twice := seen[err.Error()]
		seen[err.Error()] = true
		return twice
	})...)
}

// newGroup returns the servers that sessions of one domain are sent to. An empty
// domain stands for those that the operator did not name. srv: does not apply to
// them, because then clients would choose what is looked up.
func (t *table) newGroup(domain string, servers []*Server, old *table) (group []candidate, err error) {
	for _, s := range servers {
		if s.anyDomain() && !inDNS(domain) {
			continue
		}
		c := t.newCandidate(domain, s, old)
		if slices.ContainsFunc(group, func(other candidate) bool { return other.node == c.node }) {
			return nil, fmt.Errorf("server %s is listed twice", c.name)
		}
		group = append(group, c)
	}
	if len(group) == 0 && len(servers) > 0 && domain != "" {
		return nil, fmt.Errorf("no server for %s: it is an address, which srv: cannot look up", domain)
	}
	return group, nil
}

// newCandidate returns the candidate for a server in the group of domain.
func (t *table) newCandidate(domain string, s *Server, old *table) candidate {
	if known := cmp.Or(t.servers[s.url], old.servers[s.url]); known != nil {
		s = known // with its TLS sessions, and what its files hold
	}
	t.servers[s.url] = s
	name, about := s.nodeFor(domain)
	if c, ok := t.byName[name]; ok {
		c.server = s
		return c
	}
	c := candidate{server: s, domain: domain}
	before, existed := old.byName[name]
	switch {
	case existed && before.server == s:
		c.node = before.node
	case existed: // what the options were says nothing about the new ones
		c.node = newNode(name, before.sessions)
	default:
		c.node = newNode(name, new(atomic.Int64))
	}
	switch {
	case about == "":
	case existed && before.service != nil && before.service.domain == about && old.resolver == t.resolver:
		c.service = before.service
	default:
		c.service = &service{domain: about, resolver: t.resolver}
	}
	t.all = append(t.all, c)
	t.byName[name] = c
	return c
}

func (t *table) has(n *node) bool { return t.byName[n.name].node == n }

func (t *table) names() (names []string) {
	for _, c := range t.all {
		names = append(names, c.name)
	}
	return names
}

// group returns the servers of a domain.
func (t *table) group(domain string) []candidate {
	if group, ok := t.routes[domain]; ok {
		return group
	}
	return t.fallback
}

// endpoints returns the places where the server listens, in the order in which
// they are to be tried.
func (c candidate) endpoints(ctx context.Context, o Observer, order func([]record)) ([]endpoint, error) {
	if c.service != nil {
		return c.service.endpoints(ctx, c, o, order)
	}
	return []endpoint{c.server.endpoint(o)}, nil
}
