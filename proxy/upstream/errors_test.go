package upstream

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Metrics know no other values than those listed.
func TestListsAreComplete(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "errors.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	lists := map[string][]string{"Phase": Phases(), "Result": Results()}
	found := 0
	for _, object := range file.Decls {
		d, ok := object.(*ast.GenDecl)
		if !ok || d.Tok != token.CONST {
			continue
		}
		for _, spec := range d.Specs {
			v := spec.(*ast.ValueSpec)
			for prefix, list := range lists {
				if !strings.HasPrefix(v.Names[0].Name, prefix) {
					continue
				}
				found++
				if value, err := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value); err != nil || !slices.Contains(list, value) {
					t.Errorf("%s is not listed", v.Names[0].Name)
				}
			}
		}
	}
	if want := len(Phases()) + len(Results()); found != want {
		t.Errorf("%d constants, %d are listed", found, want)
	}
}
