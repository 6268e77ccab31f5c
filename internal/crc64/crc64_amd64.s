//go:build amd64 && !noasm

#include "textflag.h"

// func foldCLMUL(block *[128]byte, p []byte, factors *[2]uint64)
//
// Eight lanes are in X0 to X7, the factors in X8. One step multiplies both halves of a lane by their factors and adds the
// 16 bytes of data that come 128 bytes later.
TEXT ·foldCLMUL(SB), NOSPLIT, $0-40
	MOVQ  block+0(FP), DI
	MOVQ  p_base+8(FP), SI
	MOVQ  p_len+16(FP), CX
	MOVQ  factors+32(FP), BX
	MOVOU (BX), X8
	MOVOU 0(DI), X0
	MOVOU 16(DI), X1
	MOVOU 32(DI), X2
	MOVOU 48(DI), X3
	MOVOU 64(DI), X4
	MOVOU 80(DI), X5
	MOVOU 96(DI), X6
	MOVOU 112(DI), X7
	SHRQ  $7, CX
	JZ    narrowDone

narrowLoop:
	MOVO      X0, X9
	MOVOU     0(SI), X10
	PCLMULQDQ $0x00, X8, X0
	PCLMULQDQ $0x11, X8, X9
	PXOR      X10, X0
	PXOR      X9, X0
	MOVO      X1, X11
	MOVOU     16(SI), X12
	PCLMULQDQ $0x00, X8, X1
	PCLMULQDQ $0x11, X8, X11
	PXOR      X12, X1
	PXOR      X11, X1
	MOVO      X2, X9
	MOVOU     32(SI), X10
	PCLMULQDQ $0x00, X8, X2
	PCLMULQDQ $0x11, X8, X9
	PXOR      X10, X2
	PXOR      X9, X2
	MOVO      X3, X11
	MOVOU     48(SI), X12
	PCLMULQDQ $0x00, X8, X3
	PCLMULQDQ $0x11, X8, X11
	PXOR      X12, X3
	PXOR      X11, X3
	MOVO      X4, X9
	MOVOU     64(SI), X10
	PCLMULQDQ $0x00, X8, X4
	PCLMULQDQ $0x11, X8, X9
	PXOR      X10, X4
	PXOR      X9, X4
	MOVO      X5, X11
	MOVOU     80(SI), X12
	PCLMULQDQ $0x00, X8, X5
	PCLMULQDQ $0x11, X8, X11
	PXOR      X12, X5
	PXOR      X11, X5
	MOVO      X6, X9
	MOVOU     96(SI), X10
	PCLMULQDQ $0x00, X8, X6
	PCLMULQDQ $0x11, X8, X9
	PXOR      X10, X6
	PXOR      X9, X6
	MOVO      X7, X11
	MOVOU     112(SI), X12
	PCLMULQDQ $0x00, X8, X7
	PCLMULQDQ $0x11, X8, X11
	PXOR      X12, X7
	PXOR      X11, X7
	ADDQ      $128, SI
	DECQ      CX
	JNZ       narrowLoop

narrowDone:
	MOVOU X0, 0(DI)
	MOVOU X1, 16(DI)
	MOVOU X2, 32(DI)
	MOVOU X3, 48(DI)
	MOVOU X4, 64(DI)
	MOVOU X5, 80(DI)
	MOVOU X6, 96(DI)
	MOVOU X7, 112(DI)
	RET

// func foldWideCLMUL(block *[256]byte, p []byte, factors *[2]uint64)
//
// The same with four lanes in each of Z0 to Z3.
TEXT ·foldWideCLMUL(SB), NOSPLIT, $0-40
	MOVQ           block+0(FP), DI
	MOVQ           p_base+8(FP), SI
	MOVQ           p_len+16(FP), CX
	MOVQ           factors+32(FP), BX
	VBROADCASTI32X4 (BX), Z8
	VMOVDQU64 0(DI), Z0
	VMOVDQU64 64(DI), Z1
	VMOVDQU64 128(DI), Z2
	VMOVDQU64 192(DI), Z3
	SHRQ           $8, CX
	JZ             wideDone

wideLoop:
	VPCLMULQDQ $0x00, Z8, Z0, Z4
	VPCLMULQDQ $0x11, Z8, Z0, Z0
	VPTERNLOGQ $0x96, 0(SI), Z4, Z0 // xor of all three
	VPCLMULQDQ $0x00, Z8, Z1, Z5
	VPCLMULQDQ $0x11, Z8, Z1, Z1
	VPTERNLOGQ $0x96, 64(SI), Z5, Z1 // xor of all three
	VPCLMULQDQ $0x00, Z8, Z2, Z6
	VPCLMULQDQ $0x11, Z8, Z2, Z2
	VPTERNLOGQ $0x96, 128(SI), Z6, Z2 // xor of all three
	VPCLMULQDQ $0x00, Z8, Z3, Z7
	VPCLMULQDQ $0x11, Z8, Z3, Z3
	VPTERNLOGQ $0x96, 192(SI), Z7, Z3 // xor of all three
	ADDQ       $256, SI
	DECQ       CX
	JNZ        wideLoop

wideDone:
	VMOVDQU64 Z0, 0(DI)
	VMOVDQU64 Z1, 64(DI)
	VMOVDQU64 Z2, 128(DI)
	VMOVDQU64 Z3, 192(DI)
	VZEROUPPER
	RET

// func cpuid(leaf, sub uint32) (eax, ebx, ecx, edx uint32)
TEXT ·cpuid(SB), NOSPLIT, $0-24
	MOVL leaf+0(FP), AX
	MOVL sub+4(FP), CX
	CPUID
	MOVL AX, eax+8(FP)
	MOVL BX, ebx+12(FP)
	MOVL CX, ecx+16(FP)
	MOVL DX, edx+20(FP)
	RET

// func xgetbv() (eax, edx uint32)
TEXT ·xgetbv(SB), NOSPLIT, $0-8
	XORL CX, CX
	XGETBV
	MOVL AX, eax+0(FP)
	MOVL DX, edx+4(FP)
	RET
