package deflate

import "sync/atomic"

// A Memory bounds the dictionaries of many compressors together. The zero value has
// none. It may be used by several goroutines at once and must not be copied.
type Memory struct{ limit, used atomic.Int64 } // in bytes

// SetLimit sets how many bytes there are. What is in use beyond that stays in use.
func (m *Memory) SetLimit(bytes int64) { m.limit.Store(bytes) }

// Limit is the number of bytes that there are.
func (m *Memory) Limit() int64 { return m.limit.Load() }

// Used is the number of bytes in use.
func (m *Memory) Used() int64 { return m.used.Load() }

// Has reports whether there is room for the dictionary that p takes.
func (m *Memory) Has(p Params) bool {
	return p.memory() == 0 || m.used.Load()+p.memory() <= m.limit.Load()
}

func (m *Memory) take(n int64) bool {
	for n > 0 {
		used := m.used.Load()
		if used+n > m.limit.Load() {
			return false
		}
		if m.used.CompareAndSwap(used, used+n) {
			return true
		}
	}
	return true
}

func (m *Memory) giveBack(n int64) { m.used.Add(-n) }
