package share

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Many who ask at once have one answer, and nobody an old one.
func TestDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var value, calls atomic.Int64
		s := New(func(fresh func()) int64 {
			calls.Add(1)
			time.Sleep(time.Second) // who comes meanwhile need not wait for another call
			fresh()
			v := value.Load()
			time.Sleep(time.Second) // who comes now must
			return v
		})
		var all sync.WaitGroup
		for n := range 1000 {
			all.Go(func() {
				time.Sleep(time.Duration(n) * 7 * time.Millisecond)
				value.Add(1)
				if least, got := value.Load(), s.Do(); got < least {
					t.Errorf("%d, although %d was true before", got, least)
				}
			})
		}
		all.Wait()
		if n := calls.Load(); n > 6 {
			t.Errorf("%d calls in 9 s of 2 s each", n)
		}
		if s.last != 0 {
			t.Error("the last answer is kept although nobody waits for it")
		}
		if value.Store(5); s.Do() != 5 {
			t.Error("an old answer")
		}
	})
}
