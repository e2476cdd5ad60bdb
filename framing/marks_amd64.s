//go:build !purego

#include "go_asm.h"
#include "textflag.h"

// A byte finds in a table, by its low four bits, the one byte to mark that has
// the same. Bytes beyond ASCII find zero. 0xff is equal to none of them.
DATA text<>+0(SB)/8, $0xff26ffffffffffff // '&'
DATA text<>+8(SB)/8, $0xffff5d3cffffffff // '<' and ']'
GLOBL text<>(SB), RODATA|NOPTR, $16

DATA value<>+0(SB)/8, $0x2726ffffff22ffff // '"', '&' and '\''
DATA value<>+8(SB)/8, $0xffffff3cffffffff // '<'
GLOBL value<>(SB), RODATA|NOPTR, $16

DATA space<>+0(SB)/8, $0x2020202020202020
GLOBL space<>(SB), RODATA|NOPTR, $8

// LOOK takes 64 bytes. Their marks in text and value go to AX and DX, what is
// least of each column to Y12, all its bits to Y13.
#define LOOK \
	VMOVDQU   (SI), Y0      \
	VMOVDQU   32(SI), Y1    \
	VPSHUFB   Y0, Y14, Y2   \
	VPSHUFB   Y1, Y14, Y3   \
	VPSHUFB   Y0, Y15, Y4   \
	VPSHUFB   Y1, Y15, Y5   \
	VPCMPEQB  Y0, Y2, Y2    \
	VPCMPEQB  Y1, Y3, Y3    \
	VPCMPEQB  Y0, Y4, Y4    \
	VPCMPEQB  Y1, Y5, Y5    \
	VPMOVMSKB Y2, AX        \
	VPMOVMSKB Y3, BX        \
	VPMOVMSKB Y4, DX        \
	VPMOVMSKB Y5, R8        \
	VPMINUB   Y0, Y12, Y12  \
	VPMINUB   Y1, Y12, Y12  \
	VPOR      Y0, Y13, Y13  \
	VPOR      Y1, Y13, Y13  \
	SHLQ      $32, BX       \
	SHLQ      $32, R8       \
	ORQ       BX, AX        \
	ORQ       R8, DX

// func markAVX2(m *marks, b *byte, n int) (low, beyond uint32)
TEXT ·markAVX2(SB), NOSPLIT, $0-32
	MOVQ           m+0(FP), DI
	MOVQ           b+8(FP), SI
	MOVQ           n+16(FP), CX
	VBROADCASTI128 text<>(SB), Y14
	VBROADCASTI128 value<>(SB), Y15
	VPBROADCASTQ   space<>(SB), Y12
	VPXOR          Y13, Y13, Y13
	SUBQ           $64, CX

block:
	LOOK
	MOVQ AX, marks_text(DI)
	MOVQ DX, marks_value(DI)
	ADDQ $8, DI
	ADDQ $64, SI
	SUBQ $64, CX
	JGE  block

	// The last bytes are taken with those in front of them that make 64, whose
	// marks are shifted away again.
	NEGQ CX
	CMPQ CX, $64
	JEQ  done
	SUBQ CX, SI
	LOOK
	SHRQ CX, AX
	SHRQ CX, DX
	MOVQ AX, marks_text(DI)
	MOVQ DX, marks_value(DI)
	ADDQ $8, DI

done:
	MOVQ         $0, marks_text(DI)
	MOVQ         $0, marks_value(DI)
	VPBROADCASTQ space<>(SB), Y0
	VPCMPEQB     Y0, Y12, Y12        // the least is the space that it began with
	VPMOVMSKB    Y12, AX
	VPMOVMSKB    Y13, DX
	NOTL         AX
	VZEROUPPER
	MOVL         AX, low+24(FP)
	MOVL         DX, beyond+28(FP)
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
TEXT ·supported(SB), NOSPLIT, $0-1
	MOVB  $0, ret+0(FP)
	XORL  AX, AX
	CPUID
	CMPL  AX, $7
	JLT   no
	MOVL  $1, AX
	XORL  CX, CX
	CPUID
	ANDL  $(1<<27 | 1<<28), CX // OSXSAVE, AVX
	CMPL  CX, $(1<<27 | 1<<28)
	JNE   no
	XORL  CX, CX
	XGETBV
	ANDL  $6, AX               // the system saves XMM and YMM
	CMPL  AX, $6
	JNE   no
	MOVL  $7, AX
	XORL  CX, CX
	CPUID
	SHRL  $5, BX               // AVX2
	ANDL  $1, BX
	MOVB  BX, ret+0(FP)

no:
	RET
