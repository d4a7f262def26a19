// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_KVM_CAPABILITY_H_
#define CLOISTER_KVM_CAPABILITY_H_

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace cloister::kvm {

// What a KVM can be asked about with CheckExtension. In brackets: the first
// Linux that knows the question. Most answers are 0 or 1; others are said.
enum class Capability {
  kIrqchip,           // CreateIrqchip()
  kUserMemory,        // the first SET_USER_MEMORY_REGION
  kSetTssAddress,     // SetTssAddress()
  kExtendedCpuid,     // SupportedCpuid()
  kVcpusRecommended,  // a number of vCPUs
  kMemorySlots,       // a number of slots
  kMpState,           // Get/SetMpState()
  kCoalescedMmio,     // a page offset
  kIrqfd,             // AttachIrqfd()
  kPit2,              // CreatePit()
  kSetBootCpuId,      // SetBootCpuId()
  kIoeventfd,         // AttachIoeventfd()
  kSetIdentityMap,    // SetIdentityMapAddress()
  kAdjustClock,       // bits of GetClock()'s flags
  kVcpuEvents,        // Get/SetVcpuEvents()
  kXcrs,              // Get/SetXcrs()
  kTscControl,        // a guest's TSC frequency can be set
  kMaxVcpus,          // a number of vCPUs
  kTscDeadlineTimer,  // of the in-kernel local APIC      [3.2]
  kReadonlyMemory,    // MemoryRegion::readonly
  kSyncRegs,          // a mask of register classes
  kSignalMsi,         // SignalMsi()
  kIrqfdResample,     // AttachIrqfd()'s resample fd
  kCheckExtensionVm,  // Vm::CheckExtension() may differ from System's
  kSplitIrqchip,      // EnableSplitIrqchip()           [4.5]
  kMaxVcpuId,         // one above the highest vCPU id
  kX2apicApi,         // EnableX2apicApi(): a mask      [4.7]
  kImmediateExit,     // VcpuFd::SetImmediateExit()     [4.13]
  kGetMsrFeatures,    // FeatureMsrs()
  kUserSpaceMsr,      // EnableUserSpaceMsrExits(): mask [5.10]
  kMsrFilter,         // SetMsrFilter()                 [5.10]
  kExitHypercall,     // a mask of hypercall numbers    [5.14]
  kVmTscControl,      // a VM's TSC frequency           [5.18]
  kTripleFaultEvent,  // [6.1]
  kUserMemory2,       // SET_USER_MEMORY_REGION2        [6.8]
  kMemoryFaultInfo,   // MemoryFaultExit                [6.8]
  kMemoryAttributes,  // a mask of attributes           [6.8]
  kGuestMemfd,        // CreateGuestMemfd()             [6.8]
  kVmTypes,           // a mask of 1 << VmType          [6.8]
  kPreFaultMemory,    // VcpuFd::PreFaultMemory()       [6.11]
  kGuestMemfdFlags,   // a mask, on the VM only         [6.18]
};

// KVM's own name for it: "KVM_CAP_GUEST_MEMFD".
absl::string_view CapabilityName(Capability capability);

// KVM's number for it, the argument of KVM_CHECK_EXTENSION.
int CapabilityNumber(Capability capability);

// Every value of the enumeration, in its order.
absl::Span<const Capability> AllCapabilities();

}  // namespace cloister::kvm

#endif  // CLOISTER_KVM_CAPABILITY_H_
