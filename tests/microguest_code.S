/* SPDX-License-Identifier: Apache-2.0
 *
 * The program of a microguest: it asks its monitor for a command, does it and
 * asks for the next. Position-independent, without a stack. RDI points to this
 * vCPU's mailbox (tests/microguest.cc has the layout) all the time. Private
 * memory is mapped at its own address, shared memory 2^40 higher.
 */
    .set OP, 0x00
    .set ADDRESS, 0x08
    .set COUNT, 0x10
    .set VALUE, 0x18
    .set STRIDE, 0x20
    .set DELTA, 0x28
    .set RESULT, 0x30
    .set SEEN, 0x38
    .set STOP, 0x40
    .set PROGRESS, 0x48
    .set SEED, 0x50
    .set PORT, 0x510
    .set SHARED_VIEW, 0x10000000000

    .section .rodata
    .globl cloister_microguest_start, cloister_microguest_end
cloister_microguest_start:
next:
    movl $PORT, %edx
    inl %dx, %eax                   /* Waits; the mailbox is filled then. */
    testl %eax, %eax
    jz halt
    movq ADDRESS(%rdi), %rsi
    movq COUNT(%rdi), %rcx
    movq VALUE(%rdi), %rax
    movq STRIDE(%rdi), %rbx
    movq DELTA(%rdi), %rbp
    movq OP(%rdi), %rdx
    cmpl $1, %edx
    je write
    cmpl $2, %edx
    je check
    cmpl $3, %edx
    je convert
    cmpl $4, %edx
    je count
    cmpl $5, %edx
    je toggle
    cmpl $6, %edx
    je random
    cmpl $7, %edx
    je watch
halt:
    hlt
    jmp halt

/* [ADDRESS + i * STRIDE] = VALUE + i * DELTA. */
write:
    testq %rcx, %rcx
    jz next
1:  movq %rax, (%rsi)
    addq %rbx, %rsi
    addq %rbp, %rax
    decq %rcx
    jnz 1b
    jmp next

/* RESULT = how many of these hold from the start; SEEN = what was read last. */
check:
    xorl %r8d, %r8d
1:  cmpq %rcx, %r8
    jae 2f
    movq (%rsi), %r9
    movq %r9, SEEN(%rdi)
    cmpq %rax, %r9
    jne 2f
    addq %rbx, %rsi
    addq %rbp, %rax
    incq %r8
    jmp 1b
2:  movq %r8, RESULT(%rdi)
    jmp next

/* MAP_GPA_RANGE of COUNT pages at ADDRESS with attributes VALUE. */
convert:
    movq %rsi, %rbx
    movq %rax, %rdx
    movl $12, %eax
    vmmcall
    movq %rax, RESULT(%rdi)
    jmp next

/* Counts in PROGRESS until told to stop. */
count:
1:  incq PROGRESS(%rdi)
    cmpq $0, STOP(%rdi)
    je 1b
    jmp next

/* Reads ADDRESS again and again until told to stop. */
watch:
1:  movq (%rsi), %rax
    movq %rax, SEEN(%rdi)
    incq PROGRESS(%rdi)
    cmpq $0, STOP(%rdi)
    je 1b
    jmp next

/* Converts each of COUNT pages at ADDRESS in turn to shared and back. */
toggle:
    xorl %r9d, %r9d
1:  cmpq $0, STOP(%rdi)
    jne next
    movq %r9, %rbx
    shlq $12, %rbx
    addq %rsi, %rbx
    movl $1, %ecx
    xorl %edx, %edx
    movl $12, %eax
    vmmcall
    orq %rax, RESULT(%rdi)
    movl $16, %edx
    movl $12, %eax
    vmmcall
    orq %rax, RESULT(%rdi)
    incq PROGRESS(%rdi)
    incq %r9
    cmpq COUNT(%rdi), %r9
    jb 1b
    xorl %r9d, %r9d
    jmp 1b

/* Until told to stop: takes 1 to DELTA + 1 (a power of two) of the pages
 * ADDRESS + i * STRIDE, i < COUNT, sees that each holds what was put there,
 * converts them, sees that those that changed are empty, and fills them. The
 * byte VALUE + i says what page i is: 0 untouched, 1 shared, 2 private. SEEN
 * counts wrong contents, PROGRESS conversions; RESULT has all errors.
 */
random:
    movq SEED(%rdi), %r10
    movq %rax, %r11
    movabsq $SHARED_VIEW, %r14
random_again:
    cmpq $0, STOP(%rdi)
    jne next
    movq %r10, %rax
    shlq $13, %rax
    xorq %rax, %r10
    movq %r10, %rax
    shrq $7, %rax
    xorq %rax, %r10
    movq %r10, %rax
    shlq $17, %rax
    xorq %rax, %r10
    movq %r10, %rax                 /* R8: the first page. */
    shrq $32, %rax
    xorl %edx, %edx
    divq COUNT(%rdi)
    movq %rdx, %r8
    movq %r10, %r9                  /* R9: how many. */
    shrq $8, %r9
    andq %rbp, %r9
    incq %r9
    movq COUNT(%rdi), %rax
    subq %r8, %rax
    cmpq %rax, %r9
    cmovaq %rax, %r9
    movl $1, %r15d                  /* R15: the state. */
    testb $1, %r10b
    jz 1f
    incl %r15d
1:  xorl %r13d, %r13d
2:  leaq (%r8, %r13), %rax
    movzbl (%r11, %rax), %ecx
    imulq STRIDE(%rdi), %rax
    addq %rsi, %rax
    movq %rax, %r12
    cmpl $1, %ecx
    jb 4f
    jne 3f
    addq %r14, %rax
3:  notq %r12
    cmpq %r12, (%rax)
    je 4f
    incq SEEN(%rdi)
4:  incq %r13
    cmpq %r9, %r13
    jb 2b
    movq %r8, %rbx
    imulq STRIDE(%rdi), %rbx
    addq %rsi, %rbx
    movq %r9, %rcx
    xorl %edx, %edx
    cmpl $2, %r15d
    jne 5f
    movl $16, %edx
5:  movl $12, %eax
    vmmcall
    orq %rax, RESULT(%rdi)
    incq PROGRESS(%rdi)
    xorl %r13d, %r13d
6:  leaq (%r8, %r13), %rax
    movzbl (%r11, %rax), %ecx
    movb %r15b, (%r11, %rax)
    imulq STRIDE(%rdi), %rax
    addq %rsi, %rax
    movq %rax, %r12
    cmpl $1, %r15d
    jne 7f
    addq %r14, %rax
7:  cmpl %r15d, %ecx
    je 8f
    cmpq $0, (%rax)
    je 8f
    incq SEEN(%rdi)
8:  notq %r12
    movq %r12, (%rax)
    incq %r13
    cmpq %r9, %r13
    jb 6b
    jmp random_again
cloister_microguest_end:

    .section .note.GNU-stack, "", @progbits
