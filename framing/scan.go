package framing

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"unicode/utf8"
)

// This file holds the functions that know XML and nothing else. All are
// stateless. Positions are indexes into the slice they are given; -1 means not
// found.
//
//	characters   checkCharacters, validUTF8, indexNonCharacter, isChar
//	names        scanName, asciiNameEnd, wideNameEnd, checkRunes, hashName
//	attributes   attribute, attributeScanner
//	tags         tagEnd
//	references   checkReferences, unescaped
//	declaration  checkXMLDecl

const (
	byteSpace       = 1 << iota // white space
	byteName                    // may stand in a name, ':' excepted
	byteNoNameStart             // may not be the first byte of a name
)

// byteClass classifies bytes. All bytes of a multi-byte character count as
// name bytes; checkRunes looks at them.
var byteClass = func() (t [256]uint8) {
	for _, c := range " \t\r\n" {
		t[c] = byteSpace
	}
	for c := range t {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '_', c >= utf8.RuneSelf:
			t[c] = byteName
		case '0' <= c && c <= '9', c == '-', c == '.':
			t[c] = byteName | byteNoNameStart
		}
	}
	return t
}()

// asciiName has the ASCII bytes that may stand in a name, ':' excepted.
var asciiName = func() (t [256]bool) {
	for c := range utf8.RuneSelf {
		t[c] = byteClass[c]&byteName != 0
	}
	return t
}()

// asciiNameEnd returns the index of the first byte at or after i that is not in
// asciiName, or len(b).
func asciiNameEnd(b []byte, i uint) uint {
	for i < uint(len(b)) && asciiName[b[i]] {
		i++
	}
	return i
}

// wideNameEnd is asciiNameEnd for a name beyond ASCII that starts at i. It
// returns len(b) if the name is improper.
func wideNameEnd(b []byte, i uint) uint {
	end := i
	for end < uint(len(b)) && byteClass[b[end]]&byteName != 0 {
		end++
	}
	if !checkRunes(b[i:end]) {
		return uint(len(b))
	}
	return end
}

func isSpace(c byte) bool { return c == ' ' || c == '\n' || c == '\t' || c == '\r' }

// indexByte returns the index of the first c at or after i, or len(b).
func indexByte(b []byte, i int, c byte) int {
	if n := bytes.IndexByte(b[i:], c); n >= 0 {
		return i + n
	}
	return len(b)
}

// skipSpace returns the index of the first byte at or after i that is not
// white space, or len(b).
func skipSpace(b []byte, i int) int {
	for i < len(b) && isSpace(b[i]) {
		i++
	}
	return i
}

const (
	ones         = 0x0101010101010101
	highs        = 0x80 * ones
	minPrintable = 0x20 * ones // the first byte that is no control character
)

// checkCharacters looks for control characters that XML forbids and for bytes
// that are not ASCII. control is the index of the first forbidden byte, or -1.
func checkCharacters(b []byte) (control int, ascii bool) {
	ascii = true
	for i := 0; ; {
		i += printablePrefix(b[i:])
		if i == len(b) {
			return -1, ascii
		}
		// White space, a character beyond ASCII or, rarely, an error.
		part := b[i:min(i+64, len(b))]
		if ascii {
			ascii = isASCII(part)
		}
		if j := indexControl(part); j >= 0 {
			return i + j, ascii && isASCII(b[i:])
		}
		i += len(part)
	}
}

// printablePrefix returns the length of a prefix of b that is printable ASCII (or DEL,
// which XML allows). It may stop up to 63 bytes early.
//
// It looks at 64 bytes at a time. Subtracting 0x20 from each byte of a word
// sets the high bit of those below, as it is set in those beyond ASCII. A
// borrow reaches a neighbour only from one of the former, so it can blur where
// such a byte is, not whether there is one.
func printablePrefix(b []byte) int {
	i := 0
	for ; len(b)-i >= 64; i += 64 {
		c := b[i : i+64 : i+64]
		w0 := binary.LittleEndian.Uint64(c[0:])
		w1 := binary.LittleEndian.Uint64(c[8:])
		w2 := binary.LittleEndian.Uint64(c[16:])
		w3 := binary.LittleEndian.Uint64(c[24:])
		x := ((w0 | (w0 - minPrintable)) | (w1 | (w1 - minPrintable))) | ((w2 | (w2 - minPrintable)) | (w3 | (w3 - minPrintable)))
		w0 = binary.LittleEndian.Uint64(c[32:])
		w1 = binary.LittleEndian.Uint64(c[40:])
		w2 = binary.LittleEndian.Uint64(c[48:])
		w3 = binary.LittleEndian.Uint64(c[56:])
		y := ((w0 | (w0 - minPrintable)) | (w1 | (w1 - minPrintable))) | ((w2 | (w2 - minPrintable)) | (w3 | (w3 - minPrintable)))
		if (x|y)&highs != 0 {
			return i
		}
	}
	for ; len(b)-i >= 8; i += 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		if (w|(w-minPrintable))&highs != 0 {
			return i
		}
	}
	if i == len(b) {
		return i
	}
	if len(b) >= 8 { // the last bytes, some of them again
		w := binary.LittleEndian.Uint64(b[len(b)-8:])
		if (w|(w-minPrintable))&highs == 0 {
			return len(b)
		}
		return i
	}
	for ; i < len(b); i++ {
		if b[i]-' ' >= utf8.RuneSelf-' ' {
			return i
		}
	}
	return i
}

// indexControl returns the index of the first forbidden control character. It
// passes over words of eight bytes that have neither controls nor white space,
// for text in other alphabets comes here whole.
func indexControl(b []byte) int {
	for i := 0; i < len(b); {
		end := min(i+8, len(b))
		if end-i == 8 {
			if w := binary.LittleEndian.Uint64(b[i:]); (w-minPrintable)&^w&highs == 0 {
				i = end
				continue
			}
		}
		for ; i < end; i++ {
			if b[i] < ' ' && !isSpace(b[i]) {
				return i
			}
		}
	}
	return -1
}

func isASCII(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		if binary.LittleEndian.Uint64(b)&highs != 0 {
			return false
		}
	}
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// validUTF8 returns the length of the longest part in front of b that is UTF-8.
// What follows it is invalid unless it is the start of a character, which
// utf8.FullRune tells.
func validUTF8(b []byte) int {
	i := 0
	for {
		for ; len(b)-i >= 64; i += 64 {
			c := b[i : i+64 : i+64]
			x := binary.LittleEndian.Uint64(c) | binary.LittleEndian.Uint64(c[8:]) |
				binary.LittleEndian.Uint64(c[16:]) | binary.LittleEndian.Uint64(c[24:])
			y := binary.LittleEndian.Uint64(c[32:]) | binary.LittleEndian.Uint64(c[40:]) |
				binary.LittleEndian.Uint64(c[48:]) | binary.LittleEndian.Uint64(c[56:])
			if (x|y)&highs != 0 {
				break
			}
		}
		// Where ASCII and other characters alternate, single steps are faster
		// than to look again for what may be passed over.
		for end := min(i+32, len(b)); i < end; {
			switch c := b[i]; {
			case c < utf8.RuneSelf:
				i++
			case 0xc2 <= c && c < 0xe0 && len(b)-i > 1 && b[i+1]&0xc0 == 0x80:
				i += 2
			default:
				_, n := utf8.DecodeRune(b[i:])
				if n <= 1 {
					return i
				}
				i += n
			}
		}
		if i == len(b) {
			return i
		}
	}
}

// indexNonCharacter returns the index of U+FFFE or U+FFFF, the only characters
// above the controls that valid UTF-8 can carry and XML cannot.
func indexNonCharacter(b []byte) int {
	for i := 0; ; {
		j := bytes.Index(b[i:], []byte("\xef\xbf"))
		if j < 0 {
			return -1
		}
		if i += j; i+2 < len(b) && b[i+2] >= 0xbe {
			return i
		}
		i += 2
	}
}

// isChar reports whether r is a character of XML 1.0, section 2.2.
func isChar(r rune) bool {
	switch {
	case r < ' ':
		return r == '\t' || r == '\n' || r == '\r'
	case r < 0xd800:
		return true
	case r < 0xe000:
		return false
	}
	return r <= utf8.MaxRune && r != 0xfffe && r != 0xffff
}

// scanName scans the qualified name at b[i:]. colon is the index of its colon,
// -1 if there is none; end is the index behind the name, -1 if there is no
// proper name. Characters beyond ASCII are taken on trust, see checkRunes.
func scanName(b []byte, i int) (colon, end int) {
	colon = -1
	if i >= len(b) || byteClass[b[i]] != byteName {
		return -1, -1
	}
	for i++; i < len(b) && byteClass[b[i]]&byteName != 0; i++ {
	}
	if i < len(b) && b[i] == ':' {
		colon = i
		i++
		if i >= len(b) || byteClass[b[i]] != byteName {
			return -1, -1
		}
		for i++; i < len(b) && byteClass[b[i]]&byteName != 0; i++ {
		}
		if i < len(b) && b[i] == ':' {
			return -1, -1
		}
	}
	return colon, i
}

// checkRunes reports whether a name that scanName accepted is proper beyond
// ASCII. It decodes most characters by itself: names may be as short as one, so
// a call counts.
func checkRunes(name []byte) bool {
	head := true
	for i := 0; i < len(name); {
		c := name[i]
		if c < utf8.RuneSelf {
			head = c == ':'
			i++
			continue
		}
		if 0xe4 <= c && c <= 0xec && i+2 < len(name) && name[i+1]&0xc0 == 0x80 && name[i+2]&0xc0 == 0x80 {
			head = false // U+4000 to U+CFFF may stand anywhere
			i += 3
			continue
		}
		var r rune
		var n int
		if c < 0xe0 && i+1 < len(name) && 0xc2 <= c && name[i+1]&0xc0 == 0x80 {
			r, n = rune(c&0x1f)<<6|rune(name[i+1]&0x3f), 2
		} else {
			r, n = utf8.DecodeRune(name[i:])
		}
		if !isNameStart(r) && (head || !isNameRest(r)) {
			return false
		}
		head = false
		i += n
	}
	return true
}

// isNameStart reports whether r, which is beyond ASCII, may start a name (XML
// 1.0, section 2.3).
func isNameStart(r rune) bool {
	switch {
	case r < 0x2000:
		return r >= 0x37f || 0xc0 <= r && r < 0x300 && r != 0xd7 && r != 0xf7 || 0x370 <= r && r <= 0x37d
	case r < 0x3001:
		return 0x2c00 <= r && r <= 0x2fef || 0x2070 <= r && r <= 0x218f || r == 0x200c || r == 0x200d
	case r < 0xd800:
		return true
	case r < 0x10000:
		return 0xf900 <= r && r <= 0xfffd && (r <= 0xfdcf || r >= 0xfdf0)
	}
	return r <= 0xeffff
}

// isNameRest reports whether r, which is beyond ASCII and may not start a name,
// may follow in one.
func isNameRest(r rune) bool {
	return r == 0xb7 || 0x300 <= r && r <= 0x36f || r == 0x203f || r == 0x2040
}

// seed keeps peers from choosing names that have the same hash.
var seed = maphash.MakeSeed()

// hashBytes returns a number for b that nobody outside of the process can
// foresee.
func hashBytes(b []byte) uint64 { return maphash.Bytes(seed, b) }

// spread makes of a hash one whose high bits a peer cannot foresee.
var spread = hashBytes(nil) | 1

// hashName returns a number for the name b[i:end]. Two names of up to eight
// bytes never have the same: the bytes themselves are the number then. See
// spread for tables.
func hashName(b []byte, i, end int) uint64 {
	n := end - i
	switch {
	case n > 8:
		return hashBytes(b[i:end])
	case i+8 <= len(b):
		return binary.LittleEndian.Uint64(b[i:]) << (64 - 8*n)
	}
	var last [8]byte
	copy(last[8-n:], b[i:end])
	return binary.LittleEndian.Uint64(last[:])
}

// An attribute is one attribute of a tag, as indexes into the slice that holds
// the tag. colon is -1 if the name has no prefix; value and end enclose the
// value with its quotes.
type attribute struct{ name, colon, nameEnd, value, end int }

// text returns the text of an attribute of tag.
func (a *attribute) text(tag []byte) []byte { return unescaped(tag[a.value+1 : a.end-1]) }

// local returns where the local name of an attribute starts.
func (a *attribute) local() int {
	if a.colon < 0 {
		return a.name
	}
	return a.colon + 1
}

// declaredPrefix returns the prefix that an attribute binds, empty for the default
// namespace. It reports whether the attribute is a declaration at all.
func (a *attribute) declaredPrefix(tag []byte) (prefix []byte, ok bool) {
	if tag[a.name] != 'x' { // the quick way out
		return nil, false
	}
	if a.colon < 0 {
		return nil, string(tag[a.name:a.nameEnd]) == "xmlns"
	}
	return tag[a.colon+1 : a.nameEnd], string(tag[a.name:a.colon]) == "xmlns"
}

// An attributeScanner goes over the attributes of a tag, as a bufio.Scanner goes
// over lines: next until it says false, then err tells why.
type attributeScanner struct {
	tag []byte

	// pos is where the next attribute is looked for. When next has said false,
	// it is where the '>' or '/' stands that ends the tag, or what is wrong.
	pos int

	attribute // the last one found
	err       error
}

// scanAttributes returns a scanner for the attributes of a tag, which are
// expected from pos on. tag may go on behind the tag's end but not behind the
// next '<', which makes a '<' in a value an error.
func scanAttributes(tag []byte, pos int) attributeScanner {
	return attributeScanner{tag: tag, pos: pos}
}

// next scans white space and the attribute behind it. It reports whether there is
// one.
func (s *attributeScanner) next() bool {
	tag := s.tag
	j := skipSpace(tag, s.pos)
	if j == len(tag) {
		return s.stop(j, errTag)
	}
	if tag[j] == '>' || tag[j] == '/' {
		return s.stop(j, nil)
	}
	if j == s.pos {
		return s.stop(j, errTag)
	}
	colon, k := scanName(tag, j)
	if k < 0 {
		return s.stop(j, errName)
	}
	nameEnd := k
	if k = skipSpace(tag, k); k == len(tag) || tag[k] != '=' {
		return s.stop(k, errTag)
	}
	k = skipSpace(tag, k+1)
	if k == len(tag) || tag[k] != '"' && tag[k] != '\'' {
		return s.stop(k, errValue)
	}
	end := k + 1
	if end == len(tag) || tag[end] != tag[k] { // empty values are not worth a call
		if end = indexByte(tag, end, tag[k]); end == len(tag) {
			return s.stop(end, errValue)
		}
	}
	s.pos = end + 1
	// Field by field: a copy reads two fields at a time, and a processor waits
	// for that until both have left it for its cache.
	s.name, s.colon, s.nameEnd, s.value, s.end = j, colon, nameEnd, k, s.pos
	return true
}

// stop ends the scan at pos.
func (s *attributeScanner) stop(pos int, err error) bool {
	s.pos, s.err = pos, err
	return false
}

// tagEnd returns the index of the '>' that ends the start tag whose rest is
// b[i:], or -1. quote is the quote that encloses b[i], 0 if none; the second
// result is the same for the end of b when there is no '>'.
func tagEnd(b []byte, i int, quote byte) (int, byte) {
	for i < len(b) {
		if quote != 0 {
			j := bytes.IndexByte(b[i:], quote)
			if j < 0 {
				return -1, quote
			}
			i += j + 1
			quote = 0
			continue
		}
		switch b[i] {
		case '>':
			return i, 0
		case '"', '\'':
			quote = b[i]
		}
		i++
	}
	return -1, quote
}

// checkReferences checks the references in text or in an attribute value.
// offset is the position of b for errors. Entities beyond the five predefined
// ones would need a document type, which XMPP forbids (RFC 6120, section 11.1).
func checkReferences(b []byte, offset int) error {
	for i := 0; ; {
		j := bytes.IndexByte(b[i:], '&')
		if j < 0 {
			return nil
		}
		i += j
		_, n, err := reference(b[i:])
		if err != nil {
			return referenceError(offset+i, err)
		}
		i += n
	}
}

// referenceError returns the error of reference at an offset.
func referenceError(offset int, err error) error {
	if err == errEntity {
		return &Error{CondRestrictedXML, offset, err}
	}
	return &Error{CondNotWellFormed, offset, err}
}

// reference decodes the reference at the start of b, which is n bytes long.
func reference(b []byte) (r rune, n int, err error) {
	if len(b) > 1 && b[1] == '#' {
		return characterReference(b)
	}
	colon, end := scanName(b, 1)
	if end < 0 || end == len(b) || b[end] != ';' || colon >= 0 {
		return 0, 0, errReference
	}
	switch string(b[1:end]) {
	case "amp":
		r = '&'
	case "lt":
		r = '<'
	case "gt":
		r = '>'
	case "quot":
		r = '"'
	case "apos":
		r = '\''
	default:
		return 0, 0, errEntity
	}
	return r, end + 1, nil
}

func characterReference(b []byte) (r rune, n int, err error) {
	base := rune(10)
	i := 2
	if i < len(b) && b[i] == 'x' {
		base = 16
		i++
	}
	first := i
	for ; i < len(b); i++ {
		var digit rune
		switch c := b[i]; {
		case '0' <= c && c <= '9':
			digit = rune(c - '0')
		case base == 16 && 'a' <= c|0x20 && c|0x20 <= 'f':
			digit = rune(c|0x20-'a') + 10
		case c == ';' && i > first && isChar(r):
			return r, i + 1, nil
		default:
			return 0, 0, errReference
		}
		if r <= utf8.MaxRune { // else too large already, and never again small
			r = r*base + digit
		}
	}
	return 0, 0, errReference
}

// appendUnescaped appends to dst the text of an attribute value without its
// quotes. The references must have been checked.
func appendUnescaped(dst, b []byte) []byte {
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == '&':
			r, n, err := reference(b[i:])
			if err != nil {
				dst = append(dst, c)
				continue
			}
			dst = utf8.AppendRune(dst, r)
			i += n - 1
		case c == '\r' && i+1 < len(b) && b[i+1] == '\n':
			// The two are one line end.
		case isSpace(c):
			dst = append(dst, ' ')
		default:
			dst = append(dst, c)
		}
	}
	return dst
}

// unescaped returns the text of an attribute value without its quotes. It
// allocates only when there is something to replace.
func unescaped(b []byte) []byte {
	for _, c := range b {
		if c == '&' || c < ' ' {
			return appendUnescaped(make([]byte, 0, len(b)), b)
		}
	}
	return b
}

// startsXMLDecl reports whether b starts with an XML declaration, proper
// or not.
func startsXMLDecl(b []byte) bool {
	return len(b) > 5 && string(b[:5]) == "<?xml" && isSpace(b[5])
}

// checkXMLDecl checks the XML declaration that b starts with (XML 1.0, section
// 2.8) and returns its length. offset is the position of b for errors.
func checkXMLDecl(b []byte, offset int) (int, error) {
	end := bytes.Index(b, []byte("?>"))
	if end < 0 {
		return 0, &Error{CondNotWellFormed, offset, errXMLDecl}
	}
	want := 0 // index into the three names, which come in this order
	a := scanAttributes(b[:end], 5)
	// '>' stops the scanner where '?' would not.
	for skipSpace(b[:end], a.pos) < end {
		if !a.next() {
			return 0, &Error{CondNotWellFormed, offset + a.pos, errXMLDecl}
		}
		value := b[a.value+1 : a.end-1]
		switch name := string(b[a.name:a.nameEnd]); {
		case name == "version" && want == 0 && len(value) > 2 && string(value[:2]) == "1." && isDigits(value[2:]):
			want = 1
		case name == "encoding" && want == 1:
			want = 2
			if !bytes.EqualFold(value, []byte("utf-8")) {
				return 0, &Error{CondUnsupportedEncoding, offset + a.value, errEncoding}
			}
		case name == "standalone" && (want == 1 || want == 2) && (string(value) == "yes" || string(value) == "no"):
			want = 3
		default:
			return 0, &Error{CondNotWellFormed, offset + a.name, errXMLDecl}
		}
	}
	if want == 0 {
		return 0, &Error{CondNotWellFormed, offset, errXMLDecl}
	}
	return end + 2, nil
}

// isDigits reports whether b is one or more decimal digits.
func isDigits(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(b) > 0
}
