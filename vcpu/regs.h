// SPDX-License-Identifier: Apache-2.0
//
// The state a vCPU starts in. Pure: what KVM's structures should hold, not the
// setting of it.
#ifndef CLOISTER_VCPU_REGS_H_
#define CLOISTER_VCPU_REGS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "cloister/kvm/registers.h"
#include "cloister/memory/guest_address.h"

namespace cloister::vcpu {

// Entry into 64-bit guest code with paging on, as the Linux boot protocol's
// 64-bit entry wants it (Documentation/arch/x86/boot.rst): flat segments 0x10
// and 0x18, interrupts off.
struct LongModeEntry {
  uint64_t rip = 0;
  uint64_t rsi = 0;  // boot_params for Linux.
  uint64_t rsp = 0;
  uint64_t rdi = 0;
  // The PML4's address, with the C-bit if the tables are to be read with it.
  uint64_t cr3 = 0;
  // Where BuildBootGdt()'s bytes lie, a linear address, and their number.
  uint64_t gdt = 0;
  uint16_t gdt_size = 0;
};

// General registers for `entry`; what it does not name is 0, RFLAGS is 2.
kvm::Registers LongModeRegisters(const LongModeEntry& entry);

// Segments, CR0 (PG, WP, NE, ET, MP, PE), CR4 (PAE, and the OSFXSR pair), EFER
// (LME, LMA, NXE) for `entry`. `reset` is what the new vCPU has (KVM_GET_SREGS)
// and supplies the rest: the APIC base, which gets x2APIC mode if `x2apic`.
kvm::SpecialRegisters LongModeSpecialRegisters(
    const LongModeEntry& entry, const kvm::SpecialRegisters& reset,
    bool x2apic);

// The special registers of an application processor that waits for INIT and
// SIPI: `reset` with x2APIC mode on if asked. With an in-kernel local APIC KVM
// makes every vCPU but the first MpState::kUninitialized by itself.
kvm::SpecialRegisters ApplicationProcessorRegisters(
    const kvm::SpecialRegisters& reset, bool x2apic);

// Enabled, x2APIC if asked (SDM vol. 3A 10.12.1), the rest of `apic_base` kept.
uint64_t ApicBase(uint64_t apic_base, bool x2apic);

// What firmware leaves in MSRs, on every vCPU: MTRRs on with write-back as the
// default and no ranges, PAT as at reset, fast strings on.
std::vector<kvm::MsrEntry> BootMsrs();

// LINT0 as ExtINT on the boot processor (masked on the others) and LINT1 as NMI
// in a local APIC's registers, as firmware leaves them and a kernel that runs
// the 8259 through LINT0 expects (SDM vol. 3A 10.5.1).
void SetLocalInterrupts(bool is_boot_processor, kvm::LapicState& lapic);

// A dump for people, several lines: RIP, RFLAGS, RSP, general registers,
// control registers, EFER, segments and descriptor tables.
std::string DescribeRegisters(const kvm::Registers& registers,
                              const kvm::SpecialRegisters& special);

}  // namespace cloister::vcpu

#endif  // CLOISTER_VCPU_REGS_H_
