package framing

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// This file finds the end of a unit. Most bytes of a stream are looked at here and
// nowhere else.

// findEnd looks for the end of the unit that starts at b[0] and returns its
// length, 0 if it is not complete.
//
// A '>' ends a start tag unless it stands in an attribute value. As long as a
// tag has quotes of one kind only, an even number of them before the '>' means
// that it does not; counting is much faster than following them. Quotes of
// both kinds make counting worthless: ' may stand between two ". Such tags,
// which are rare, are followed quote by quote.
func (d *StreamSplitter) findEnd(b []byte) (int, error) {
	i, phase := d.pos, d.phase
	for {
		switch phase {
		case inText:
			i, d.depth = skipContent(b, i, d.depth)
			if d.depth == 0 {
				return i, nil
			}
			if i == len(b) {
				d.pos, d.phase = i, inText
				return 0, nil
			}
			fallthrough

		case atMarkup:
			if i+1 == len(b) {
				d.pos, d.phase = i, atMarkup
				return 0, nil
			}
			d.tag = i
			switch b[i+1] {
			case '/':
				phase = inEndTag
				i += 2
				continue
			case '?':
				return 0, d.fail(CondRestrictedXML, i, errMarkup)
			case '!':
				const cdata = "<![CDATA["
				k := min(len(b)-i, len(cdata))
				if d.depth == 0 || string(b[i:i+k]) != cdata[:k] {
					return 0, d.fail(CondRestrictedXML, i, errMarkup)
				}
				if k < len(cdata) {
					d.pos, d.phase = i, atMarkup
					return 0, nil
				}
				phase = inCDATA
				i += k
				continue
			}
			i++
			phase = inTag
			d.singleQuotes, d.doubleQuotes = 0, 0
			fallthrough

		case inTag:
			j := bytes.IndexByte(b[i:], '>')
			part := b[i:]
			if j >= 0 {
				part = part[:j]
			}
			d.singleQuotes += uint32(bytes.Count(part, quoteSingle))
			d.doubleQuotes += uint32(bytes.Count(part, quoteDouble))
			if j < 0 {
				d.pos, d.phase = len(b), inTag
				return 0, nil
			}
			if d.singleQuotes > 0 && d.doubleQuotes > 0 {
				phase, d.quote = inQuotedTag, 0
				i = d.tag + 1
				continue
			}
			i += j + 1
			if (d.singleQuotes+d.doubleQuotes)&1 != 0 {
				continue
			}

		case inQuotedTag:
			j, quote := tagEnd(b, i, d.quote)
			if j < 0 {
				d.pos, d.phase, d.quote = len(b), inQuotedTag, quote
				return 0, nil
			}
			i = j + 1

		case inEndTag:
			j := bytes.IndexByte(b[i:], '>')
			if j < 0 {
				d.pos, d.phase = len(b), inEndTag
				return 0, nil
			}
			i += j + 1
			switch d.depth--; d.depth {
			case -1:
				d.kind = KindEnd
				return i, nil
			case 0:
				return i, nil
			}
			phase = inText
			continue

		case inCDATA:
			// The end may be cut in two; look from where it could start.
			from := max(i-2, d.tag+len("<![CDATA["))
			j := bytes.Index(b[from:], []byte("]]>"))
			if j < 0 {
				d.pos, d.phase = len(b), inCDATA
				return 0, nil
			}
			i = from + j + 3
			phase = inText
			continue
		}

		// b[:i] ends with a start tag.
		phase = inText
		empty := b[i-2] == '/'
		if d.depth == 0 {
			if err := d.identifyRoot(b[:i], empty); err != nil || d.kind == KindHeader {
				return i, err
			}
		}
		if !empty {
			d.depth++
		} else if d.depth == 0 {
			return i, nil
		}
	}
}

var (
	quoteSingle = []byte{'\''}
	quoteDouble = []byte{'"'}
)

// skipContent passes over what stands between the tags of an element, as far as
// that is text and tags of a short name and nothing else, which most tags are.
// It returns the index of the '<' where that ends, or len(b), and its depth. If
// the depth is 0, the root has ended there.
//
// To look at the bytes of one word is several times as fast as the calls that
// find a '>' and count quotes.
func skipContent(b []byte, i, depth int) (int, int) {
	for {
		if i == len(b) || b[i] != '<' {
			i = indexByte(b, i, '<')
		}
		if len(b)-i < 2+8 {
			return i, depth
		}
		tag := b[i : i+2+8]
		w := binary.LittleEndian.Uint64(tag[2:])
		end := matchBytes(w, '>')
		if end == 0 {
			return i, depth
		}
		n := 2 + bits.TrailingZeros64(end)/8 // the index of the '>'
		switch c := tag[1]; {
		case c == '/':
			i += n + 1
			if depth--; depth == 0 {
				return i, 0
			}
		case byteClass[c] == byteName && (matchBytes(w, '\'')|matchBytes(w, '"'))&(end-1) == 0:
			if i += n + 1; b[i-2] != '/' {
				depth++
			}
		default:
			return i, depth
		}
	}
}

// matchBytes sets the high bit of the bytes of w that are c. Only the lowest bit is
// sure: the byte behind one that is c may be taken for another.
func matchBytes(w uint64, c byte) uint64 {
	w ^= ones * uint64(c)
	return (w - ones) &^ w & highs
}
