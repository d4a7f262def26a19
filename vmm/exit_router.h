// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VMM_EXIT_ROUTER_H_
#define CLOISTER_VMM_EXIT_ROUTER_H_

#include <atomic>
#include <cstdint>

#include "cloister/base/log.h"
#include "cloister/confidential/backend.h"
#include "cloister/devices/bus.h"
#include "cloister/memory/conversion_broker.h"
#include "cloister/memory/page_state_map.h"
#include "cloister/vcpu/exit_handler.h"

namespace cloister::vmm {

// Where the exits of all of a VM's vCPUs go: port and memory I/O to the buses,
// conversions to the broker, MSRs to the few that the monitor answers itself.
// Thread-safe; every argument comes from the guest.
class ExitRouter : public vcpu::ExitHandler {
 public:
  // What is pointed to must outlive the router; `broker` may be null (nothing
  // is private then).
  struct Parts {
    devices::Bus* pio = nullptr;
    devices::Bus* mmio = nullptr;
    memory::PageStateMap* states = nullptr;
    memory::ConversionBroker* broker = nullptr;
    const confidential::Backend* backend = nullptr;
    base::Logger* log = nullptr;
  };
  explicit ExitRouter(const Parts& parts) : parts_(parts) {}

  // A device's wish, from within a bus access: the vCPU that made the access,
  // or the next one that writes to a device, ends with `verdict`. The first
  // wish stands.
  void Request(vcpu::Verdict verdict);

  // Whether a conversion that policy denied, or that could not be done, has
  // ended a vCPU. Memory faults that ask for none do not count.
  bool conversion_failed() const { return conversion_failed_.load(); }

  uint64_t PageStateGeneration() override;
  void OnPortRead(uint16_t port, absl::Span<uint8_t> data) override;
  vcpu::Verdict OnPortWrite(uint16_t port,
                            absl::Span<const uint8_t> data) override;
  void OnMmioRead(memory::GuestAddress address,
                  absl::Span<uint8_t> data) override;
  vcpu::Verdict OnMmioWrite(memory::GuestAddress address,
                            absl::Span<const uint8_t> data) override;
  uint64_t OnHypercall(const vcpu::Hypercall& call) override;
  absl::Status OnMemoryFault(const kvm::MemoryFaultExit& fault,
                             uint64_t generation) override;
  bool OnMsr(vcpu::MsrAccess& access) override;
  void OnApicEoi(uint8_t /*vector*/) override {}
  vcpu::Verdict OnSystemEvent(const kvm::SystemEventExit& event) override {
    return vcpu::DefaultVerdict(event);
  }

 private:
  const Parts parts_;
  std::atomic<vcpu::Verdict> requested_{vcpu::Verdict::kContinue};
  std::atomic<bool> conversion_failed_{false};
  std::atomic<uint32_t> unknown_msrs_{0};
};

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_EXIT_ROUTER_H_
