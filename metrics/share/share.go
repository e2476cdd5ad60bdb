// Package share lets all who ask for the same thing at the same time have one answer.
package share

import "sync/atomic"

// A Flight shares the results of a function. New makes one. Its methods may be called by
// several goroutines at once.
type Flight[T any] struct {
	f       func() T
	begun   atomic.Uint64 // calls of f
	waiting atomic.Int32  // callers of Do
	lock    chan struct{} // has a value while somebody uses what follows
	number  uint64        // of last
	last    T             // zero when nobody is waiting for it
}

// New returns a Flight of f. f calls fresh at the moment from which on its result is
// true: whoever has called Do before that may have it.
func New[T any](f func(fresh func()) T) *Flight[T] {
	s := &Flight[T]{lock: make(chan struct{}, 1)}
	s.f = func() T { return f(func() { s.number = s.begun.Add(1) }) }
	return s
}

// Do returns the result of a call of f that was fresh after the call of Do. So there is
// at most one call under way, and one more for those who came too late for it. The result
// is shared and must not be changed.
func (s *Flight[T]) Do() T {
	s.waiting.Add(1)
	begun := s.begun.Load()
	s.lock <- struct{}{}
	defer func() {
		if s.waiting.Add(-1) == 0 {
			var none T
			s.last, s.number = none, 0
		}
		<-s.lock
	}()
	if s.number <= begun {
		s.last = s.f()
	}
	return s.last
}
