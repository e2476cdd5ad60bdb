package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// completions are the shells that the command completion knows. A variable would depend
// on itself, because they print the table of commands.
func completions() map[string]func() string {
	return map[string]func() string{
		"bash": bashCompletion,
		"fish": fishCompletion,
		"zsh":  zshCompletion,
	}
}

// printCompletion prints what makes a shell complete the subcommands.
func printCompletion(ctx context.Context, p process) int {
	known := slices.Sorted(maps.Keys(completions()))
	if len(p.args) != 1 {
		fmt.Fprintf(p.stderr, "xmppgate: completion needs a shell: %s\n", strings.Join(known, ", "))
		return exitUsage
	}
	if p.args[0] == "-h" || p.args[0] == "-help" || p.args[0] == "--help" {
		return printHelp(ctx, p)
	}
	script, ok := completions()[p.args[0]]
	if !ok {
		return p.usage("no completion for the shell", p.args[0], known)
	}
	fmt.Fprint(p.stdout, script())
	return exitOK
}

func bashCompletion() string {
	var names []string
	for _, c := range commands() {
		names = append(names, c.name)
	}
	return `_xmppgate() {
	COMPREPLY=()
	[ "$COMP_CWORD" = 1 ] || return 0
	mapfile -t COMPREPLY < <(compgen -W '` + strings.Join(names, " ") + `' -- "${COMP_WORDS[1]}")
}
complete -o default -F _xmppgate xmppgate
`
}

func fishCompletion() string {
	var b strings.Builder
	b.WriteString("complete -c xmppgate -n __fish_use_subcommand -f\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "complete -c xmppgate -n __fish_use_subcommand -a %s -d '%s'\n", c.name, strings.ReplaceAll(c.help, "'", `\'`))
	}
	return b.String()
}

func zshCompletion() string {
	var b strings.Builder
	b.WriteString("#compdef xmppgate\nlocal -a commands\ncommands=(\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "\t'%s:%s'\n", c.name, strings.NewReplacer("'", `'\''`, ":", `\:`).Replace(c.help))
	}
	b.WriteString(")\nif (( CURRENT == 2 )); then\n\t_describe command commands\nelse\n\t_default\nfi\n")
	return b.String()
}
