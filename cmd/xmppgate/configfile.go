package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/joho/godotenv"
)

// This file finds the values of variables: in the environment and in the file that
// CONFIG names. The file has a line KEY=value for each variable, as EnvironmentFile=
// of systemd and env_file of compose do. Where these two read a line in different
// ways, it is an error.

// maxConfigFile is the size in bytes of the largest file that is read, because the
// name may be that of a device.
const maxConfigFile = 1 << 20

// settings are the values of variables, before they are parsed.
type settings struct {
	values     map[string]string // by the name with the prefix; of other variables as well
	where      map[string]string // of values from the file: its name and the line
	overridden []string          // variables with another value in the file, which the environment hides
	errs       []error           // lines that cannot be read
}

// findSettings reads the file and puts the environment above it.
func findSettings(environ map[string]string) settings {
	s := settings{values: maps.Clone(environ), where: map[string]string{}}
	if s.values == nil {
		s.values = map[string]string{}
	}
	name := environ[prefix+"CONFIG"]
	if name == "" {
		return s
	}
	text, err := readConfigFile(name)
	if err != nil {
		s.errs = append(s.errs, fmt.Errorf("%sCONFIG=%q: %w", prefix, name, err))
		return s
	}
	number, first := 0, map[string]int{}
	for line := range strings.Lines(strings.TrimPrefix(text, "\ufeff")) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		key, value, err := parseLine(line)
		where := fmt.Sprintf("%s:%d", name, number)
		switch {
		case err == nil && !strings.HasPrefix(key, prefix):
			continue // what other programs read from there
		case err == nil && key == prefix+"CONFIG":
			err = errors.New("set it in the environment: a file cannot say where it is")
		case err == nil && first[key] > 0:
			err = fmt.Errorf("it has a value in line %d: remove one of them", first[key])
		}
		if err != nil {
			if key != "" {
				err = fmt.Errorf("%s: %w", key, err)
			}
			s.errs = append(s.errs, fmt.Errorf("%s: %w", where, err))
			continue
		}
		first[key] = number
		if above, ok := environ[key]; !ok || above == "" && key != emptyMeansNone {
			s.values[key], s.where[key] = value, where
		} else if above != value {
			s.overridden = append(s.overridden, key)
		}
	}
	slices.Sort(s.overridden)
	return s
}

func readConfigFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxConfigFile+1))
	if err != nil {
		return "", err
	}
	if len(text) > maxConfigFile {
		return "", fmt.Errorf("the file has more than %d bytes: is it the right one?", maxConfigFile)
	}
	return string(text), nil
}

// parseLine parses a line that is not empty and no comment. key is empty if there is
// none. The errors do not quote the line, which may have a secret.
func parseLine(line string) (key, value string, err error) {
	pair, err := godotenv.Unmarshal(line)
	if len(pair) == 1 {
		key = slices.Collect(maps.Keys(pair))[0]
		value = pair[key]
	}
	switch {
	case err != nil || key == "" || strings.ContainsAny(key, " \t"):
		return "", "", errors.New("not KEY=value: write one variable a line; if the value has quotes, they end with it")
	case !strings.HasPrefix(key, prefix):
		return key, value, nil
	case strings.HasSuffix(line, `\`):
		return key, "", errors.New("the line goes on behind a backslash, which not every reader of such files knows: write one line")
	case strings.Contains(line, "$"):
		return key, "", errors.New("the value has a $, which some readers of such files take for the name of a variable: set it in the environment")
	}
	return key, value, nil
}
