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

// Has reports whether there is room for the Compressor and the Inflater of p.
func (m *Memory) Has(p Params) bool {
	n := p.memory() + p.clientMemory()
	return n == 0 || m.used.Load()+n <= m.limit.Load()
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

// A history is the end of a text, as much of it as its capacity.
type history []byte

// newHistory returns an empty history of n bytes, nil for none.
func newHistory(n int64) history {
	if n == 0 {
		return nil
	}
	return make(history, 0, n)
}

// add appends text.
func (h *history) add(text []byte) {
	most := cap(*h)
	if len(text) >= most {
		*h = append((*h)[:0], text[len(text)-most:]...)
		return
	}
	if over := len(*h) + len(text) - most; over > 0 {
		*h = (*h)[:copy(*h, (*h)[over:])]
	}
	*h = append(*h, text...)
}
