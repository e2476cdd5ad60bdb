//go:build linux

package proxy

func heldBySlot(l link) (n int) {
	s := l.(*slot)
	s.view(func(*session) { n = len(s.sides[client].pending) + s.win[server].n })
	return n
}
