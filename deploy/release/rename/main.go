// Command rename gives the module another path, so that others can import and install
// it from there: "make rename MODULE=host/path".
//
// It changes import declarations, the files go.mod, the import rules of golangci-lint,
// and the command of the documents that installs the program. It leaves alone all text
// that only has the name of the program in it.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"go/format"
	"go/parser"
	"go/token"
	"io/fs"
	"log"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("rename: ")
	if len(os.Args) != 3 {
		log.Fatal("usage: rename ROOT MODULE")
	}
	if err := rename(os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

// unpublished is the path of a module that nobody can import.
const unpublished = "xmppgate"

// rename changes the path of the module at root to another one. It changes either all
// files or none.
func rename(root, to string) error {
	mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return err
	}
	r := renaming{from: modfile.ModulePath(mod), to: to}
	if err := check(to); err != nil {
		return err
	}
	changed := map[string][]byte{}
	err = filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if slices.Contains([]string{".git", "node_modules", "bin", "dist"}, d.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		change := r.change(d.Name())
		if change == nil || !d.Type().IsRegular() {
			return nil
		}
		old, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		text, err := change(old)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		if !bytes.Equal(text, old) {
			changed[file] = text
		}
		return nil
	})
	if err != nil {
		return err
	}
	for file, text := range changed {
		if err := os.WriteFile(file, text, 0o644); err != nil { // the mode of an existing file stays
			return err
		}
	}
	return nil
}

// check refuses what cannot be the path of this module.
func check(to string) error {
	if to == unpublished {
		return nil
	}
	if to == "" {
		return errors.New("say which path: make rename MODULE=host/path")
	}
	if strings.Contains(to, "://") {
		return fmt.Errorf("%q is a URL: write host/path", to)
	}
	if err := module.CheckPath(to); err != nil {
		return err
	}
	if _, major, _ := module.SplitPathVersion(to); major != "" {
		return fmt.Errorf("%q ends with %s, but the versions are 0 and 1: leave it out", to, major)
	}
	return nil
}

// A renaming changes the text of files.
type renaming struct{ from, to string }

// change returns what changes a file of this name; nil if nothing does.
func (r renaming) change(name string) func([]byte) ([]byte, error) {
	switch {
	case path.Ext(name) == ".go":
		return r.imports
	case name == "go.mod":
		return r.modules
	case name == ".golangci.yml":
		return r.replace("pkg: "+r.from+"/", "pkg: "+r.to+"/")
	case path.Ext(name) == ".md":
		return r.replace(install(r.from), install(r.to))
	}
	return nil
}

// path returns the new path of a package or module, or the same one if it is not ours.
func (r renaming) path(p string) string {
	if p == r.from {
		return r.to
	}
	if rest, ok := strings.CutPrefix(p, r.from+"/"); ok {
		return r.to + "/" + rest
	}
	return p
}

// imports changes the import declarations of a Go file, and nothing else of it.
func (r renaming) imports(text []byte) ([]byte, error) {
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, "", text, parser.ImportsOnly)
	if err != nil {
		return nil, err
	}
	var out []byte
	end := 0
	for _, i := range file.Imports {
		p, err := strconv.Unquote(i.Path.Value)
		if err != nil {
			return nil, err
		}
		if r.path(p) == p {
			continue
		}
		at := set.Position(i.Path.Pos()).Offset
		out = append(append(out, text[end:at]...), strconv.Quote(r.path(p))...)
		end = at + len(i.Path.Value)
	}
	if end == 0 {
		return text, nil
	}
	return format.Source(append(out, text[end:]...)) // sorts the imports
}

// modules changes the paths in a go.mod.
func (r renaming) modules(text []byte) ([]byte, error) {
	f, err := modfile.Parse("go.mod", text, nil)
	if err != nil {
		return nil, err
	}
	for _, q := range f.Require {
		if r.path(q.Mod.Path) == q.Mod.Path && (renaming{from: r.to}).path(q.Mod.Path) != q.Mod.Path {
			return nil, fmt.Errorf("%s is another module, which is used here", q.Mod.Path)
		}
	}
	var lines []*modfile.Line
	for _, s := range f.Syntax.Stmt {
		switch s := s.(type) {
		case *modfile.Line:
			lines = append(lines, s)
		case *modfile.LineBlock:
			lines = append(lines, s.Line...)
		}
	}
	changed := false
	for _, l := range lines {
		for i, word := range l.Token {
			if p := r.path(word); p != word {
				l.Token[i], changed = p, true
			}
		}
	}
	if !changed {
		return text, nil
	}
	f.SortBlocks()
	return modfile.Format(f.Syntax), nil
}

// replace changes a text wherever it stands.
func (r renaming) replace(from, to string) func([]byte) ([]byte, error) {
	return func(text []byte) ([]byte, error) {
		return bytes.ReplaceAll(text, []byte(from), []byte(to)), nil
	}
}

// install is how the documents say that the program is installed.
func install(modulePath string) string {
	if modulePath == unpublished {
		return "go install ./cmd/xmppgate"
	}
	return "go install " + modulePath + "/cmd/xmppgate@latest"
}
