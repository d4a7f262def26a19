// SPDX-License-Identifier: Apache-2.0
#include "cloister/kvm/thread_requests.h"

#include "cloister/kvm/uapi.h"

namespace cloister::kvm {
namespace {

constexpr ThreadRequest kRequests[] = {
    {"KVM_RUN", KVM_RUN, true, false, "runs the guest"},
    {"KVM_GET_REGS", KVM_GET_REGS, true, false, "describes a guest's crash"},
    {"KVM_GET_SREGS", KVM_GET_SREGS, true, false, "describes a guest's crash"},
    {"KVM_SET_MEMORY_ATTRIBUTES", KVM_SET_MEMORY_ATTRIBUTES, true, true,
     "converts pages that the guest asked for, or gave to the balloon"},
    {"KVM_IRQ_LINE", KVM_IRQ_LINE, true, true, "interrupts of devices"},
    {"KVM_SIGNAL_MSI", KVM_SIGNAL_MSI, true, true, "interrupts of devices"},
    {"KVM_SET_GSI_ROUTING", KVM_SET_GSI_ROUTING, true, false,
     "the guest programs a device's MSI-X table"},
    {"KVM_IRQFD", KVM_IRQFD, true, false,
     "the guest programs a device's MSI-X table"},
    {"KVM_IOEVENTFD", KVM_IOEVENTFD, true, false,
     "the guest moves a device's notification registers"},
};

}  // namespace

absl::Span<const ThreadRequest> ThreadRequests() { return kRequests; }

unsigned long RequestType() { return KVMIO; }

}  // namespace cloister::kvm
