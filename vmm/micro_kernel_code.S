/* SPDX-License-Identifier: Apache-2.0
 *
 * Kernels of a few bytes (micro_kernel.h says what each does), entered as Linux
 * is: 64-bit mode, RIP as linked, memory mapped at its own address (with the
 * C-bit for a confidential guest). Without a stack.
 */
    .set SERIAL, 0x3f8
    .set MARKER, 0x3f0              /* init reached: the implicit policy's set point */
    .set SHIM_STATUS, 0x3f1
    .set PM1_CONTROL, 0x604
    .set RESET, 0x610
    .set DATA, 24 << 20             /* 2 MiB that nothing lies in, and the next */
    .set NOTHING, 0xd0000000        /* no memory, no device */
    .set ALIASED, 0x50000           /* in the low MiB, likewise */

    .macro print character
    movl $SERIAL, %edx
    movb $\character, %al
    outb %al, %dx
    .endm

    /* MAP_GPA_RANGE of the page at DATA. */
    .macro map_gpa_range attributes
    movl $12, %eax
    movl $DATA, %ebx
    movl $1, %ecx
    movl $\attributes, %edx
    vmmcall
    .endm

    .section .rodata
    .balign 16
    .globl cloister_micro_kernel_start, cloister_micro_kernel_end
    .globl cloister_micro_kernel_fresh, cloister_micro_kernel_print
    .globl cloister_micro_kernel_convert, cloister_micro_kernel_touch
    .globl cloister_micro_kernel_touch_unmarked
    .globl cloister_micro_kernel_crash, cloister_micro_kernel_status
    .globl cloister_micro_kernel_lost, cloister_micro_kernel_off
cloister_micro_kernel_start:

cloister_micro_kernel_fresh:
    movl $DATA, %ebx
    cmpq $0, (%rbx)
    jne 1f
    print 'f'
    jmp 2f
1:  print 'd'
2:  movq $0x5ec2e7, (%rbx)
    movl $ALIASED, %ebx
    cmpq $0, (%rbx)
    jne 3f
    print 'f'
    jmp 4f
3:  print 'd'
4:  movq $0x5ec2e7, (%rbx)
    movl $RESET, %edx
    movb $1, %al
    outb %al, %dx
    jmp halt

cloister_micro_kernel_print:
    print '.'
    jmp cloister_micro_kernel_print

cloister_micro_kernel_convert:
    map_gpa_range 0
    testq %rax, %rax
    jnz 1f
    map_gpa_range 16
    testq %rax, %rax
    jnz 1f
    print '.'
    jmp cloister_micro_kernel_convert
1:  cmpq $-1, %rax
    jne 2f
    print 'P'                       /* not permitted */
    jmp cloister_micro_kernel_off
2:  print 'E'
    jmp cloister_micro_kernel_off

/* Maps both 2 MiB from DATA without the C-bit, and reads them: the first before
 * the set point, the second after it, if the guest says that it is there. */
cloister_micro_kernel_touch_unmarked:
    movl $0, %r14d
    jmp 1f
cloister_micro_kernel_touch:
    movl $123, %r14d
1:  movq %cr3, %rax
    movq %rax, %rbx
    shrq $32, %rbx
    shlq $32, %rbx
    notq %rbx                       /* RBX: all but the C-bit. */
    andl $0xfffff000, %eax
    movq (%rax), %rcx
    andl $0xfffff000, %ecx
    movq (%rcx), %rcx
    andl $0xfffff000, %ecx          /* RCX: the page directory of 0 to 1 GiB. */
    andq %rbx, 8 * (DATA >> 21)(%rcx)
    andq %rbx, 8 * (DATA >> 21) + 8(%rcx)
    movq %cr3, %rax
    movq %rax, %cr3
    movq DATA, %rax
    print 'i'
    movl $MARKER, %edx
    movl %r14d, %eax
    outb %al, %dx
    movq $0x5ec2e7, %r15            /* A secret in a register. */
    movq DATA + (2 << 20), %rax
    print 'a'
    jmp cloister_micro_kernel_off

cloister_micro_kernel_status:
    movl $SHIM_STATUS, %edx
    movb $7, %al
    outb %al, %dx
    print 's'
    jmp cloister_micro_kernel_off

cloister_micro_kernel_crash:
    ud2                             /* There is no IDT. */

cloister_micro_kernel_lost:
    movl $NOTHING, %eax
    jmp *%rax

cloister_micro_kernel_off:
    movl $PM1_CONTROL, %edx
    movl $0x3400, %eax
    outw %ax, %dx
halt:
    hlt
    jmp halt
cloister_micro_kernel_end:

    .section .note.GNU-stack, "", @progbits
