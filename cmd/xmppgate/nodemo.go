//go:build nodemo

package main

var demoCommand []command
