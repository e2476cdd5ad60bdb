//go:build !purego

#include "textflag.h"

// A byte finds in a table, by its low four bits, the one byte looked for that
// has the same. Bytes beyond ASCII find zero. 0xff is equal to none of them.
DATA marks<>+0(SB)/8, $0x2726ffffff22ffff // '"', '&' and '\''
DATA marks<>+8(SB)/8, $0xffff5d3cffffffff // '<' and ']'
GLOBL marks<>(SB), RODATA|NOPTR, $16

DATA text<>+0(SB)/8, $0xff26ffffffffffff // '&'
DATA text<>+8(SB)/8, $0xffff5d3cffffffff // '<' and ']'
GLOBL text<>(SB), RODATA|NOPTR, $16

DATA space<>+0(SB)/8, $0x2020202020202020
GLOBL space<>(SB), RODATA|NOPTR, $8

// LOOK leaves in AX a bit for each of the 64 bytes at SI, set if it is to be
// marked. What is least of each column goes to Y12, all its bits to Y13.
#define LOOK \
	VMOVDQU   (SI), Y0     \
	VMOVDQU   32(SI), Y1   \
	VPSHUFB   Y0, Y14, Y2  \
	VPSHUFB   Y1, Y14, Y3  \
	VPCMPEQB  Y0, Y2, Y2   \
	VPCMPEQB  Y1, Y3, Y3   \
	VPMOVMSKB Y2, AX       \
	VPMOVMSKB Y3, BX       \
	VPMINUB   Y0, Y12, Y12 \
	VPMINUB   Y1, Y12, Y12 \
	VPOR      Y0, Y13, Y13 \
	VPOR      Y1, Y13, Y13 \
	SHLQ      $32, BX      \
	ORQ       BX, AX

// PUT writes the position of the first bit of AX and clears the bit.
#define PUT(offset) \
	TZCNTQ AX, BX         \
	ADDL   R9, BX         \
	MOVW   BX, offset(R8) \
	BLSRQ  AX, AX

// func markAVX2(m *marks, b *byte, n int) (control, high uint32)
TEXT ·markAVX2(SB), NOSPLIT, $0-32
	MOVQ           m+0(FP), DI
	MOVQ           b+8(FP), SI
	MOVQ           n+16(FP), DX
	VBROADCASTI128 marks<>(SB), Y14
	VPBROADCASTQ   space<>(SB), Y12
	VPXOR          Y13, Y13, Y13
	XORL           R9, R9           // position of the block
	SUBQ           $64, DX          // and of the last

block:
	LOOK

put:
	// Six at a time, some of them for nothing: how many there are is not to be
	// foreseen.
	POPCNTQ AX, CX
	MOVQ    DI, R8
	LEAQ    (DI)(CX*2), DI

six:
	PUT(0)
	PUT(2)
	PUT(4)
	PUT(6)
	PUT(8)
	PUT(10)
	ADDQ $12, R8
	CMPQ R8, DI
	JB   six

	ADDQ $64, SI
	ADDQ $64, R9
	CMPQ R9, DX
	JLE  block

	// The last bytes are taken with those in front of them that make 64, whose
	// bits are shifted away again.
	MOVQ R9, CX
	SUBQ DX, CX
	CMPQ CX, $64
	JGE  done
	SUBQ CX, SI
	LOOK
	SHRQ CX, AX
	JMP  put

done:
	ADDQ         $64, DX
	MOVW         DX, (DI)
	MOVW         DX, 2(DI)
	VPBROADCASTQ space<>(SB), Y0
	VPCMPEQB     Y0, Y12, Y12    // the least is the space that it began with
	VPMOVMSKB    Y12, AX
	VPMOVMSKB    Y13, DX
	NOTL         AX
	VZEROUPPER
	MOVL         AX, control+24(FP)
	MOVL         DX, high+28(FP)
	RET

// func skipAVX2(b *byte, n int) int
TEXT ·skipAVX2(SB), NOSPLIT, $0-24
	MOVQ           b+0(FP), SI
	MOVQ           n+8(FP), CX
	XORL           AX, AX
	VBROADCASTI128 text<>(SB), Y14
	VPBROADCASTQ   space<>(SB), Y15

block:
	SUBQ     $128, CX
	JLT      done
	VMOVDQU  (SI)(AX*1), Y0
	VMOVDQU  32(SI)(AX*1), Y1
	VMOVDQU  64(SI)(AX*1), Y2
	VMOVDQU  96(SI)(AX*1), Y3
	VPSHUFB  Y0, Y14, Y4
	VPSHUFB  Y1, Y14, Y5
	VPSHUFB  Y2, Y14, Y6
	VPSHUFB  Y3, Y14, Y7
	VPCMPEQB Y0, Y4, Y4
	VPCMPEQB Y1, Y5, Y5
	VPCMPEQB Y2, Y6, Y6
	VPCMPEQB Y3, Y7, Y7
	VPMINSB  Y0, Y1, Y0         // bytes beyond ASCII are negative
	VPMINSB  Y2, Y3, Y2
	VPOR     Y4, Y5, Y4
	VPOR     Y6, Y7, Y6
	VPMINSB  Y0, Y2, Y0
	VPOR     Y4, Y6, Y4
	VPCMPGTB Y0, Y15, Y0        // the space is greater than the least
	VPOR     Y0, Y4, Y4
	VPTEST   Y4, Y4
	JNE      done
	ADDQ     $128, AX
	JMP      block

done:
	VZEROUPPER
	MOVQ AX, ret+16(FP)
	RET

// func supported() bool
//
// It asks for all that the code above uses: POPCNT, TZCNT and BLSR of BMI1, the
// 256-bit registers of AVX and the integer instructions of AVX2.
TEXT ·supported(SB), NOSPLIT, $0-1
	MOVB  $0, ret+0(FP)
	XORL  AX, AX // leaf 0: the greatest leaf
	CPUID
	CMPL  AX, $7
	JLT   no
	MOVL  $1, AX // leaf 1: features, in CX
	XORL  CX, CX
	CPUID
	ANDL  $(1<<23 | 1<<27 | 1<<28), CX // POPCNT, OSXSAVE, AVX
	CMPL  CX, $(1<<23 | 1<<27 | 1<<28)
	JNE   no
	XORL  CX, CX // XCR0: the registers that the system saves for a process
	XGETBV
	ANDL  $6, AX // XMM and YMM; without, AVX faults whatever the processor has
	CMPL  AX, $6
	JNE   no
	MOVL  $7, AX // leaf 7, subleaf 0: more features, in BX
	XORL  CX, CX
	CPUID
	ANDL  $(1<<3 | 1<<5), BX // BMI1, AVX2
	CMPL  BX, $(1<<3 | 1<<5)
	SETEQ ret+0(FP)

no:
	RET
