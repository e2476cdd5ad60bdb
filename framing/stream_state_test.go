package framing

import (
	"errors"
	"reflect"
	"testing"
)

// Another splitter goes on with a stream after each unit, and finds the same.
func TestStateOfVectors(t *testing.T) {
	for _, dir := range []string{"down", "features"} {
		for _, v := range vectors(t, dir) {
			filter := v.filter(t)
			var d StreamSplitter
			var u StreamUnit
			r := new(result)
			for b := v.in; ; {
				n, err := d.Next(b, &u)
				if err != nil {
					r.fail(err)
					break
				}
				if u.Kind == KindNone {
					break
				}
				r.kinds = append(r.kinds, kindName(u.Kind, u.Class))
				r.outs = append(r.outs, message(&u, filter))
				b = b[n:]
				d = throughState(t, &d)
			}
			if !*update {
				v.check(t, r)
			}
		}
	}
}

func throughState(t *testing.T, d *StreamSplitter) (restored StreamSplitter) {
	t.Helper()
	state, err := d.AppendBinary([]byte("before"))
	if err != nil {
		t.Fatal(err)
	}
	state = state[len("before"):]
	if err := restored.UnmarshalBinary(state); err != nil {
		t.Fatalf("%x: %v", state, err)
	}
	clear(state) // it is not kept
	return restored
}

// A splitter that has seen a part of a unit stays where it is.
func TestStateWithinUnit(t *testing.T) {
	const stream = "<?xml version='1.0'?><stream:stream xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'> <a>x</a> </stream:stream>"
	for n := range len(stream) + 1 {
		var d StreamSplitter
		var u StreamUnit
		left := []byte(stream[:n])
		for u.Kind = KindEnd; u.Kind != KindNone; {
			k, err := d.Next(left, &u)
			if err != nil {
				t.Fatal(err)
			}
			left = left[k:]
		}
		_, err := d.AppendBinary(nil)
		// An unfinished unit has left bytes, but for a declaration, which was consumed.
		declared := n >= len("<?xml version='1.0'?>") && d.scope == nil && d.consumed == len("<?xml version='1.0'?>")
		if busy := len(left) > 1 || declared; (err != nil) != busy {
			t.Errorf("after %q, with %q left: %v", stream[:n], left, err)
		}
	}
}

// Every field is either in the state or has no meaning between two units.
func TestStateIsComplete(t *testing.T) {
	known := map[string]bool{
		"consumed": true, "scope": true, // are in the state
		"phase": true, "xmlDeclSize": true, // are zero
		"noColon": true, "checkedUTF8": true, // save looking twice
		"rootDecls": true, "kind": true, "class": true, "quote": true, "pos": true, "tag": true, "depth": true, "nameEnd": true, "colon": true, "rootEnd": true, "singleQuotes": true, "doubleQuotes": true, // are of a unit
	}
	for f := range reflect.TypeFor[StreamSplitter]().Fields() {
		if !known[f.Name] {
			t.Errorf("the state lacks %s", f.Name)
		}
	}
}

func FuzzState(f *testing.F) {
	f.Add([]byte{stateVersion, 5, 0})
	f.Add([]byte{stateVersion, 5, 1})
	f.Add([]byte{stateVersion, 0x80, 1, 2, 0, 1, 'a', 3, ' ', '=', '"'})
	f.Add([]byte{stateVersion, 5, 255, 255, 255, 255, 15})
	f.Fuzz(func(t *testing.T, data []byte) {
		var d StreamSplitter
		if err := d.UnmarshalBinary(data); err != nil {
			if !reflect.ValueOf(d).IsZero() {
				t.Error("changed, with an error")
			}
			if !errors.Is(err, errState) && !errors.Is(err, errStateVersion) {
				t.Error(err)
			}
			return
		}
		again := throughState(t, &d)
		if !reflect.DeepEqual(again, d) {
			t.Errorf("%+v, then %+v", d, again)
		}
	})
}
