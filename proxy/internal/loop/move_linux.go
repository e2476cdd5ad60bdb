package loop

import (
	"golang.org/x/sys/unix"

	"xmppgate/proxy/internal/loop/socket"
	"xmppgate/proxy/internal/relay"
)

// This file gives sessions to another process and takes them from one.

// Suspend implements Movable.
func (ec *epollConn) Suspend(ready func(*relay.Conns) bool) (fds [2]int, ok bool) {
	ec.mu.Lock()
	defer ec.mu.Unlock()
	if ec.over || ec.suspended || !ec.atRest() || !ready(&ec.conns) {
		return fds, false
	}
	for sd := range ec.fd {
		if ec.interest[sd] != 0 {
			_ = ec.w.ctl(ec.w.ep, unix.EPOLL_CTL_DEL, int(ec.fd[sd]), unix.EpollEvent{}) // fails if there is no such registration, which is what it is for
			ec.interest[sd] = 0
		}
		fds[sd] = int(ec.fd[sd])
	}
	ec.w.mu.Lock()
	ec.w.wheel.unset(ec)
	ec.w.mu.Unlock()
	ec.armed = 0
	ec.suspended = true
	return fds, true
}

// atRest reports whether the connections have nothing that only this process knows.
func (ec *epollConn) atRest() bool {
	for sd := client; sd <= server; sd++ {
		o := &ec.sides[sd]
		if !o.attached || o.shut || o.finished || o.broken || len(o.pending()) > 0 || !ec.win[sd].empty() || ec.inputWaits[sd] || ec.secure(sd) != nil {
			return false
		}
	}
	return !ec.sawFIN
}

// Resume implements Movable. What has come for the sockets meanwhile is reported when
// they are registered again.
func (ec *epollConn) Resume() {
	ec.mu.Lock()
	ec.suspended = false
	postponed := suspensions.take(&ec.driver)
	ec.mu.Unlock()
	for _, f := range append(postponed, nothing) {
		ec.event(f)
	}
}

// Release implements Movable.
func (ec *epollConn) Release() {
	ec.mu.Lock()
	defer ec.mu.Unlock()
	ec.over = true // and suspended still: whatever comes is not for it any more
	suspensions.take(&ec.driver)
	for sd := range ec.fd {
		ec.dropBacklog(side(sd))
		socket.Close(uintptr(ec.fd[sd])) // of this process; the connection goes on
		ec.fd[sd] = -1
	}
	ec.w.mu.Lock()
	defer ec.w.mu.Unlock()
	ec.w.conns[ec.index] = nil
	ec.w.free = append(ec.w.free, ec.index)
}

// Restore implements Mover.
func (e *epoll) Restore(fds [2]int, session func(Handle) relay.Session, begin func(*relay.Event)) bool {
	e.launch()
	if e.err != nil {
		return false
	}
	ec := e.newConn(int32(fds[client]), int32(fds[server]))
	ec.s = session(ec)
	ec.w.adopt(ec)
	ec.Post(func(ev *relay.Event) {
		ec.sides[client].attached, ec.sides[server].attached = true, true
		begin(ev)
	})
	return true
}
