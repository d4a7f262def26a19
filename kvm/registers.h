// SPDX-License-Identifier: Apache-2.0
//
// Mirrors of KVM's x86 register structures, so that nobody outside kvm/ sees
// those. The layouts are KVM's (asserted where they are copied); the meanings
// are those of Intel SDM vol. 3 / AMD APM vol. 2.
#ifndef CLOISTER_KVM_REGISTERS_H_
#define CLOISTER_KVM_REGISTERS_H_

#include <array>
#include <cstdint>

namespace cloister::kvm {

// General registers (KVM_GET_REGS).
struct Registers {
  uint64_t rax = 0, rbx = 0, rcx = 0, rdx = 0;
  uint64_t rsi = 0, rdi = 0, rsp = 0, rbp = 0;
  uint64_t r8 = 0, r9 = 0, r10 = 0, r11 = 0;
  uint64_t r12 = 0, r13 = 0, r14 = 0, r15 = 0;
  uint64_t rip = 0, rflags = 0;
  bool operator==(const Registers&) const = default;
};

// A segment register with its hidden part.
struct Segment {
  uint64_t base = 0;
  uint32_t limit = 0;  // in bytes, whatever `granularity` says
  uint16_t selector = 0;
  uint8_t type = 0;
  uint8_t present = 0;
  uint8_t dpl = 0;
  uint8_t default_size = 0;  // D/B
  uint8_t non_system = 0;    // S: 1 for code and data
  uint8_t long_mode = 0;     // L
  uint8_t granularity = 0;   // G
  uint8_t available = 0;     // AVL
  uint8_t unusable = 0;
  uint8_t padding = 0;
  bool operator==(const Segment&) const = default;
};

// GDTR or IDTR.
struct DescriptorTable {
  uint64_t base = 0;
  uint16_t limit = 0;
  uint16_t padding[3] = {};
  bool operator==(const DescriptorTable&) const = default;
};

// Segments, control registers and the APIC base (KVM_GET_SREGS).
struct SpecialRegisters {
  Segment cs, ds, es, fs, gs, ss;
  Segment tr, ldt;
  DescriptorTable gdt, idt;
  uint64_t cr0 = 0, cr2 = 0, cr3 = 0, cr4 = 0, cr8 = 0;
  uint64_t efer = 0;
  uint64_t apic_base = 0;
  std::array<uint64_t, 4> interrupt_bitmap = {};
  bool operator==(const SpecialRegisters&) const = default;
};

// One CPUID leaf (KVM_SET_CPUID2).
struct CpuidEntry {
  // CpuidEntry::flags: `index` (ECX on input) selects among several entries.
  static constexpr uint32_t kSignificantIndex = 1;

  uint32_t function = 0;
  uint32_t index = 0;
  uint32_t flags = 0;
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  uint32_t padding[3] = {};
  bool operator==(const CpuidEntry&) const = default;
};

// One model-specific register (KVM_GET_MSRS, KVM_SET_MSRS).
struct MsrEntry {
  uint32_t index = 0;
  uint32_t reserved = 0;
  uint64_t value = 0;
  bool operator==(const MsrEntry&) const = default;
};

// x87 and SSE state (KVM_GET_FPU).
struct FpuState {
  uint8_t fpr[8][16] = {};
  uint16_t fcw = 0;
  uint16_t fsw = 0;
  uint8_t ftwx = 0;  // the abridged tag word of FXSAVE
  uint8_t padding1 = 0;
  uint16_t last_opcode = 0;
  uint64_t last_ip = 0;
  uint64_t last_dp = 0;
  uint8_t xmm[16][16] = {};
  uint32_t mxcsr = 0;
  uint32_t padding2 = 0;
  bool operator==(const FpuState&) const = default;
};

// Extended control registers (KVM_GET_XCRS); x86 has XCR0.
struct Xcr {
  uint32_t index = 0;
  uint64_t value = 0;
  bool operator==(const Xcr&) const = default;
};

// The local APIC's register page (KVM_GET_LAPIC): registers every 16 bytes.
struct LapicState {
  std::array<uint8_t, 1024> bytes = {};

  // The 32-bit register at `offset` (SDM vol. 3, table 11-1), which must be
  // below 1024 - 3; 0 and nothing done otherwise.
  uint32_t Read(uint32_t offset) const;
  void Write(uint32_t offset, uint32_t value);
  bool operator==(const LapicState&) const = default;
};

// Pending exceptions, interrupts, NMIs, SMIs and SIPI (KVM_GET_VCPU_EVENTS):
// opaque, to be saved and put back.
struct VcpuEvents {
  std::array<uint8_t, 64> bytes = {};
  bool operator==(const VcpuEvents&) const = default;
};

// What a vCPU is doing (KVM_GET_MP_STATE).
enum class MpState : uint32_t {
  kRunnable = 0,
  kUninitialized = 1,  // an application processor before INIT
  kInitReceived = 2,
  kHalted = 3,
  kSipiReceived = 4,
  kApResetHold = 9,
};

}  // namespace cloister::kvm

#endif  // CLOISTER_KVM_REGISTERS_H_
