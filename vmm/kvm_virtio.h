// SPDX-License-Identifier: Apache-2.0
//
// What virtio transports need of the hypervisor, by KVM.
#ifndef CLOISTER_VMM_KVM_VIRTIO_H_
#define CLOISTER_VMM_KVM_VIRTIO_H_

#include <atomic>
#include <cstdint>

#include "cloister/base/event_fd.h"
#include "cloister/devices/virtio/msi_sink.h"
#include "cloister/devices/virtio/notify_binder.h"
#include "cloister/kvm/irq.h"
#include "cloister/kvm/vm.h"

namespace cloister::vmm {

// Notifications by ioeventfd (KVM_IOEVENTFD). Thread-safe.
class KvmNotifyBinder : public devices::virtio::NotifyBinder {
 public:
  // `vm` must outlive the binder.
  explicit KvmNotifyBinder(const kvm::Vm& vm) : vm_(vm) {}

  absl::Status Bind(const devices::virtio::NotifyAddress& address,
                    const base::EventFd& event) override {
    return vm_.AttachIoeventfd(Translate(address), event.fd());
  }
  void Unbind(const devices::virtio::NotifyAddress& address,
              const base::EventFd& event) override {
    // It was attached: there is nothing to fail that anybody could mend.
    vm_.DetachIoeventfd(Translate(address), event.fd()).IgnoreError();
  }

 private:
  static kvm::IoEvent Translate(const devices::virtio::NotifyAddress& address) {
    using Space = devices::virtio::NotifyAddress::Space;
    return {.space = address.space == Space::kPio ? kvm::IoEvent::Space::kPio
                                                  : kvm::IoEvent::Space::kMmio,
            .address = address.address,
            .length = address.width,
            .datamatch = address.value};
  }

  const kvm::Vm& vm_;
};

// Message-signalled interrupts (KVM_SIGNAL_MSI). Thread-safe; one ioctl each,
// as much as the write to an irqfd would be.
class KvmMsiSink : public devices::virtio::MsiSink {
 public:
  // `vm` must outlive the sink.
  explicit KvmMsiSink(const kvm::Vm& vm) : vm_(vm) {}

  void Send(uint64_t address, uint32_t data) override {
    kvm::Msi msi;
    msi.address = address;
    msi.data = data;
    // The guest wrote the address: one that names no APIC is lost, as on a bus.
    if (!vm_.SignalMsi(msi).ok()) lost_.fetch_add(1);
  }

  uint64_t lost() const { return lost_.load(); }

 private:
  const kvm::Vm& vm_;
  std::atomic<uint64_t> lost_{0};
};

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_KVM_VIRTIO_H_
