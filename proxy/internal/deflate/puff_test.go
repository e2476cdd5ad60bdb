package deflate

import (
	"errors"
	"fmt"
)

// A puff inflates bit by bit, and tells how far references reach back and how many
// blocks there are. It shares nothing with what it checks.
type puff struct {
	in       []byte
	bit      int
	out      []byte // begins with the history
	farthest int    // reference
	blocks   int
}

var errPuff = errors.New("invalid")

func (p *puff) bits(n int) (v int) {
	for i := range n {
		if p.bit>>3 >= len(p.in) {
			panic(fmt.Errorf("%w: cut short", errPuff))
		}
		v |= int(p.in[p.bit>>3]>>(p.bit&7)&1) << i
		p.bit++
	}
	return v
}

// A puffCode is a Huffman code, by length and code.
type puffCode map[[2]int]int

func newPuffCode(lengths []int) puffCode {
	c, code := puffCode{}, 0
	for n := 1; n <= 15; n++ {
		code <<= 1
		for symbol, length := range lengths {
			if length == n {
				c[[2]int{n, code}] = symbol
				code++
			}
		}
	}
	return c
}

func (p *puff) symbol(c puffCode) int {
	code := 0
	for n := 1; n <= 15; n++ {
		code = code<<1 | p.bits(1)
		if s, ok := c[[2]int{n, code}]; ok {
			return s
		}
	}
	panic(fmt.Errorf("%w code", errPuff))
}

// run inflates all blocks, until the input ends with one or one is marked as the last.
func (p *puff) run() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v at bit %d", r, p.bit)
		}
	}()
	for {
		final := p.bits(1)
		p.blocks++
		switch p.bits(2) {
		case 0:
			p.bit = (p.bit + 7) &^ 7
			n := p.bits(16)
			if p.bits(16) != n^0xffff {
				return errPuff
			}
			for range n {
				p.out = append(p.out, byte(p.bits(8)))
			}
		case 1:
			lengths := make([]int, 288)
			for i := range lengths {
				switch {
				case i < 144, i >= 280:
					lengths[i] = 8
				case i < 256:
					lengths[i] = 9
				default:
					lengths[i] = 7
				}
			}
			distances := make([]int, 30)
			for i := range distances {
				distances[i] = 5
			}
			p.block(newPuffCode(lengths), newPuffCode(distances))
		case 2:
			literals, distances, codes := p.bits(5)+257, p.bits(5)+1, p.bits(4)+4
			lengths := make([]int, 19)
			for i := range codes {
				lengths[[]int{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}[i]] = p.bits(3)
			}
			c := newPuffCode(lengths)
			lengths = nil
			for len(lengths) < literals+distances {
				switch s := p.symbol(c); s {
				case 16:
					last := lengths[len(lengths)-1]
					for range 3 + p.bits(2) {
						lengths = append(lengths, last)
					}
				case 17:
					lengths = append(lengths, make([]int, 3+p.bits(3))...)
				case 18:
					lengths = append(lengths, make([]int, 11+p.bits(7))...)
				default:
					lengths = append(lengths, s)
				}
			}
			p.block(newPuffCode(lengths[:literals]), newPuffCode(lengths[literals:]))
		default:
			return errPuff
		}
		if final == 1 || (p.bit+7)>>3 >= len(p.in) {
			return nil
		}
	}
}

func (p *puff) block(literals, distances puffCode) {
	base := func(s, first, step int) (extra, value int) {
		if s < 2*step {
			return 0, first + s
		}
		extra = s/step - 1
		return extra, first + (step+s%step)<<extra
	}
	for {
		s := p.symbol(literals)
		if s == 256 {
			return
		}
		if s < 256 {
			p.out = append(p.out, byte(s))
			continue
		}
		length := 258
		if s < 285 {
			extra, value := base(s-257, 3, 4)
			length = value + p.bits(extra)
		}
		extra, value := base(p.symbol(distances), 1, 2)
		distance := value + p.bits(extra)
		if distance > len(p.out) {
			panic(fmt.Errorf("%w: distance too far back", errPuff))
		}
		p.farthest = max(p.farthest, distance)
		for range length {
			p.out = append(p.out, p.out[len(p.out)-distance])
		}
	}
}
