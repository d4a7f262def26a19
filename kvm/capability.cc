// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/capability.h"

#include <cstddef>
#include <iterator>

#include "cloister/kvm/uapi.h"

namespace cloister::kvm {
namespace {

struct Row {
  Capability capability;
  int number;
  const char* name;
};

#define CLOISTER_ROW(ours, theirs) \
  { Capability::ours, theirs, #theirs }

// In the order of the enumeration: indexed by it.
constexpr Row kRows[] = {
    CLOISTER_ROW(kIrqchip, KVM_CAP_IRQCHIP),
    CLOISTER_ROW(kUserMemory, KVM_CAP_USER_MEMORY),
    CLOISTER_ROW(kSetTssAddress, KVM_CAP_SET_TSS_ADDR),
    CLOISTER_ROW(kExtendedCpuid, KVM_CAP_EXT_CPUID),
    CLOISTER_ROW(kVcpusRecommended, KVM_CAP_NR_VCPUS),
    CLOISTER_ROW(kMemorySlots, KVM_CAP_NR_MEMSLOTS),
    CLOISTER_ROW(kMpState, KVM_CAP_MP_STATE),
    CLOISTER_ROW(kCoalescedMmio, KVM_CAP_COALESCED_MMIO),
    CLOISTER_ROW(kIrqfd, KVM_CAP_IRQFD),
    CLOISTER_ROW(kPit2, KVM_CAP_PIT2),
    CLOISTER_ROW(kSetBootCpuId, KVM_CAP_SET_BOOT_CPU_ID),
    CLOISTER_ROW(kIoeventfd, KVM_CAP_IOEVENTFD),
    CLOISTER_ROW(kSetIdentityMap, KVM_CAP_SET_IDENTITY_MAP_ADDR),
    CLOISTER_ROW(kAdjustClock, KVM_CAP_ADJUST_CLOCK),
    CLOISTER_ROW(kVcpuEvents, KVM_CAP_VCPU_EVENTS),
    CLOISTER_ROW(kXcrs, KVM_CAP_XCRS),
    CLOISTER_ROW(kTscControl, KVM_CAP_TSC_CONTROL),
    CLOISTER_ROW(kMaxVcpus, KVM_CAP_MAX_VCPUS),
    CLOISTER_ROW(kTscDeadlineTimer, KVM_CAP_TSC_DEADLINE_TIMER),
    CLOISTER_ROW(kReadonlyMemory, KVM_CAP_READONLY_MEM),
    CLOISTER_ROW(kSyncRegs, KVM_CAP_SYNC_REGS),
    CLOISTER_ROW(kSignalMsi, KVM_CAP_SIGNAL_MSI),
    CLOISTER_ROW(kIrqfdResample, KVM_CAP_IRQFD_RESAMPLE),
    CLOISTER_ROW(kCheckExtensionVm, KVM_CAP_CHECK_EXTENSION_VM),
    CLOISTER_ROW(kSplitIrqchip, KVM_CAP_SPLIT_IRQCHIP),
    CLOISTER_ROW(kMaxVcpuId, KVM_CAP_MAX_VCPU_ID),
    CLOISTER_ROW(kX2apicApi, KVM_CAP_X2APIC_API),
    CLOISTER_ROW(kImmediateExit, KVM_CAP_IMMEDIATE_EXIT),
    CLOISTER_ROW(kGetMsrFeatures, KVM_CAP_GET_MSR_FEATURES),
    CLOISTER_ROW(kUserSpaceMsr, KVM_CAP_X86_USER_SPACE_MSR),
    CLOISTER_ROW(kMsrFilter, KVM_CAP_X86_MSR_FILTER),
    CLOISTER_ROW(kExitHypercall, KVM_CAP_EXIT_HYPERCALL),
    CLOISTER_ROW(kVmTscControl, KVM_CAP_VM_TSC_CONTROL),
    CLOISTER_ROW(kTripleFaultEvent, KVM_CAP_X86_TRIPLE_FAULT_EVENT),
    CLOISTER_ROW(kUserMemory2, KVM_CAP_USER_MEMORY2),
    CLOISTER_ROW(kMemoryFaultInfo, KVM_CAP_MEMORY_FAULT_INFO),
    CLOISTER_ROW(kMemoryAttributes, KVM_CAP_MEMORY_ATTRIBUTES),
    CLOISTER_ROW(kGuestMemfd, KVM_CAP_GUEST_MEMFD),
    CLOISTER_ROW(kVmTypes, KVM_CAP_VM_TYPES),
    CLOISTER_ROW(kPreFaultMemory, KVM_CAP_PRE_FAULT_MEMORY),
    CLOISTER_ROW(kGuestMemfdFlags, KVM_CAP_GUEST_MEMFD_FLAGS),
};

#undef CLOISTER_ROW

constexpr bool InOrder() {
  for (size_t i = 0; i < std::size(kRows); ++i) {
    if (static_cast<size_t>(kRows[i].capability) != i) return false;
  }
  return true;
}
static_assert(InOrder());
static_assert(static_cast<size_t>(Capability::kGuestMemfdFlags) + 1 ==
              std::size(kRows));

constexpr auto kAll = [] {
  struct {
    Capability values[std::size(kRows)];
  } all{};
  for (size_t i = 0; i < std::size(kRows); ++i) {
    all.values[i] = kRows[i].capability;
  }
  return all;
}();

}  // namespace

absl::string_view CapabilityName(Capability capability) {
  return kRows[static_cast<size_t>(capability)].name;
}

int CapabilityNumber(Capability capability) {
  return kRows[static_cast<size_t>(capability)].number;
}

absl::Span<const Capability> AllCapabilities() { return kAll.values; }

}  // namespace cloister::kvm
