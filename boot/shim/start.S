// SPDX-License-Identifier: Apache-2.0
//
// The shim's fixed beginning (layout.h), its two entries, and the few things
// that C++ cannot say. Position-independent; nothing in the image is written.
#include "cloister/boot/shim/offsets.h"

  .code64
  .section .start, "ax"

  // kSharedEntry: the CPU runs in view A.
  .globl ShimStart
ShimStart:
  jmp shared_entry
  .org SHIM_PRIVATE_ENTRY, 0xcc
  jmp private_entry
  .org SHIM_DIGEST_SLOT, 0xcc
  .globl kLaunchDigestSlot
kLaunchDigestSlot:
  .fill SHIM_DIGEST_SIZE, 1, 0

shared_entry:
  cli
  cld
  lea ShimStart(%rip), %rdi
  lea SHIM_STACK_END(%rdi), %rsp
  call CopyToPrivate
  // RAX is a CR3 whose tables map every address in use here to its copy in
  // view B. What follows is fetched from there.
  mov %rax, %cr3

  // kPrivateEntry: the CPU runs in view B. Takes nothing from what ran before:
  // no register, no stack, no segment.
private_entry:
  cli
  cld
  lea ShimStart(%rip), %rdi
  lea SHIM_STACK_END(%rdi), %rsp
  sub $16, %rsp
  movw $(gdt_end - gdt - 1), (%rsp)
  lea gdt(%rip), %rax
  mov %rax, 2(%rsp)
  lgdt (%rsp)
  // No interrupt and no exception is expected; one ends the VM.
  movw $0, (%rsp)
  lidt (%rsp)
  mov $SHIM_DATA_SELECTOR, %eax
  mov %eax, %ds
  mov %eax, %es
  mov %eax, %ss
  lea 1f(%rip), %rax
  push $SHIM_CODE_SELECTOR
  push %rax
  lretq
1:
  lea ShimStart(%rip), %rdi
  lea SHIM_STACK_END(%rdi), %rsp
  xor %ebp, %ebp
  call LaunchFromPrivate
  ud2

  .text
  // [[noreturn]] void EnterKernel(uint64_t entry, uint64_t boot_params)
  .globl EnterKernel
EnterKernel:
  mov %rdi, %rax
  xor %ecx, %ecx
  xor %edx, %edx
  xor %ebx, %ebx
  xor %ebp, %ebp
  xor %edi, %edi
  xor %r8d, %r8d
  xor %r9d, %r9d
  xor %r10d, %r10d
  xor %r11d, %r11d
  xor %r12d, %r12d
  xor %r13d, %r13d
  xor %r14d, %r14d
  xor %r15d, %r15d
  jmp *%rax

  // The two library functions that the compiler may call on its own.
  .globl memcpy
memcpy:
  mov %rdi, %rax
  mov %rdx, %rcx
  rep movsb
  ret

  .globl memset
memset:
  mov %rdi, %r8
  mov %esi, %eax
  mov %rdx, %rcx
  rep stosb
  mov %r8, %rax
  ret

  .section .rodata, "a"
  .balign 8
gdt:
  .quad 0
  .quad 0
  .quad 0x00af9b000000ffff  // Code, 64-bit, accessed.
  .quad 0x00cf93000000ffff  // Data, writable, accessed.
gdt_end:

  .section .note.GNU-stack, "", @progbits
