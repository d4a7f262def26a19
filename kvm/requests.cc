// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/requests.h"

#include "cloister/kvm/uapi.h"

namespace cloister::kvm {

const unsigned long Requests::kCheckExtension = KVM_CHECK_EXTENSION;
const unsigned long Requests::kCreateVm = KVM_CREATE_VM;
const unsigned long Requests::kGetSupportedCpuid = KVM_GET_SUPPORTED_CPUID;
const unsigned long Requests::kCreateVcpu = KVM_CREATE_VCPU;
const unsigned long Requests::kCreateGuestMemfd = KVM_CREATE_GUEST_MEMFD;
const unsigned long Requests::kSetMemoryRegion = KVM_SET_USER_MEMORY_REGION;
const unsigned long Requests::kSetMemoryRegion2 = KVM_SET_USER_MEMORY_REGION2;
const unsigned long Requests::kSetMemoryAttributes = KVM_SET_MEMORY_ATTRIBUTES;
const unsigned long Requests::kEnableCapability = KVM_ENABLE_CAP;
const unsigned long Requests::kCreateIrqchip = KVM_CREATE_IRQCHIP;
const unsigned long Requests::kCreatePit = KVM_CREATE_PIT2;
const unsigned long Requests::kSetTssAddress = KVM_SET_TSS_ADDR;
const unsigned long Requests::kSetIdentityMapAddress =
    KVM_SET_IDENTITY_MAP_ADDR;
const unsigned long Requests::kIrqLine = KVM_IRQ_LINE;
const unsigned long Requests::kIrqfd = KVM_IRQFD;
const unsigned long Requests::kIoeventfd = KVM_IOEVENTFD;
const unsigned long Requests::kSignalMsi = KVM_SIGNAL_MSI;
const unsigned long Requests::kSetGsiRouting = KVM_SET_GSI_ROUTING;
const unsigned long Requests::kGetClock = KVM_GET_CLOCK;
const unsigned long Requests::kSetClock = KVM_SET_CLOCK;
const unsigned long Requests::kRun = KVM_RUN;
const unsigned long Requests::kGetRegisters = KVM_GET_REGS;
const unsigned long Requests::kSetRegisters = KVM_SET_REGS;
const unsigned long Requests::kGetSpecialRegisters = KVM_GET_SREGS;
const unsigned long Requests::kSetSpecialRegisters = KVM_SET_SREGS;
const unsigned long Requests::kSetCpuid = KVM_SET_CPUID2;
const unsigned long Requests::kGetMsrs = KVM_GET_MSRS;
const unsigned long Requests::kSetMsrs = KVM_SET_MSRS;
const unsigned long Requests::kGetMpState = KVM_GET_MP_STATE;
const unsigned long Requests::kSetMpState = KVM_SET_MP_STATE;
const unsigned long Requests::kGetLapic = KVM_GET_LAPIC;
const unsigned long Requests::kSetLapic = KVM_SET_LAPIC;
const unsigned long Requests::kSetFpu = KVM_SET_FPU;
const unsigned long Requests::kSetXcrs = KVM_SET_XCRS;
const unsigned long Requests::kPreFaultMemory = KVM_PRE_FAULT_MEMORY;

}  // namespace cloister::kvm
