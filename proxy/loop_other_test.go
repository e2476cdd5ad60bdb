//go:build !linux

package proxy

func heldBySlot(link) int { return 0 }

func keptBySlot(link) (sides [2]output, win window) { return sides, win }
