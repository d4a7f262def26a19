// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/thread_requests.h"

#include "cloister/kvm/uapi.h"

namespace cloister::kvm {
namespace {

constexpr ThreadRequest kRequests[] = {
    {"KVM_RUN", KVM_RUN, true, false, false, "runs the guest"},
    {"KVM_GET_REGS", KVM_GET_REGS, true, false, false,
     "describes a guest's crash"},
    {"KVM_GET_SREGS", KVM_GET_SREGS, true, false, false,
     "describes a guest's crash"},
    {"KVM_SET_MEMORY_ATTRIBUTES", KVM_SET_MEMORY_ATTRIBUTES, true, true, false,
     "converts pages that the guest asked for, or gave to the balloon"},
    {"KVM_IRQ_LINE", KVM_IRQ_LINE, true, true, true,
     "interrupts of devices; keys and buttons of the API"},
    {"KVM_SIGNAL_MSI", KVM_SIGNAL_MSI, true, true, true,
     "interrupts of devices; changes that the API makes to them"},
    {"KVM_SET_GSI_ROUTING", KVM_SET_GSI_ROUTING, true, false, false,
     "the guest programs a device's MSI-X table"},
    {"KVM_IRQFD", KVM_IRQFD, true, false, false,
     "the guest programs a device's MSI-X table"},
    {"KVM_IOEVENTFD", KVM_IOEVENTFD, true, false, false,
     "the guest moves a device's notification registers"},
};

}  // namespace

absl::Span<const ThreadRequest> ThreadRequests() { return kRequests; }

unsigned long RequestType() { return KVMIO; }

}  // namespace cloister::kvm
