//go:build !amd64 || purego

package framing

func mark(m *marks, b []byte) traits { return markWords(m, b) }

func skip(b []byte) int { return skipWords(b) }
