// Package filestamp tells whether a file has changed. Files are looked up by name each
// time, because Kubernetes replaces a symbolic link in the path.
package filestamp

import (
	"os"
	"slices"
)

// A Stamp identifies a version of a file. The zero value stands for no file. Permissions
// leave no stamp.
type Stamp struct{ info os.FileInfo }

// Of returns the stamp of the named file.
func Of(file string) Stamp {
	info, err := os.Stat(file)
	if err != nil {
		return Stamp{}
	}
	return Stamp{info}
}

// All returns the stamps of files.
func All(files ...string) (stamps []Stamp) {
	for _, file := range files {
		stamps = append(stamps, Of(file))
	}
	return stamps
}

// Equal reports whether s and o are of the same version of the same file.
func (s Stamp) Equal(o Stamp) bool {
	if s.info == nil || o.info == nil {
		return s.info == o.info
	}
	return os.SameFile(s.info, o.info) && s.info.ModTime().Equal(o.info.ModTime()) && s.info.Size() == o.info.Size()
}

// Same reports whether all of a and b are equal.
func Same(a, b []Stamp) bool { return slices.EqualFunc(a, b, Stamp.Equal) }
