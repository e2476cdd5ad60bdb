// Package socket does with the descriptors of sockets what package net does not
// let a program do: it reads and writes them without waiting, many pieces at
// once, and on Linux makes them without the runtime's poller.
//
// A descriptor is a uintptr, as package syscall has it. Nobody owns it here.
package socket
