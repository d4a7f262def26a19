// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_VMM_PLATFORM_H_
#define CLOISTER_VMM_PLATFORM_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/base/log.h"
#include "cloister/devices/acpi_pm.h"
#include "cloister/devices/bus.h"
#include "cloister/devices/i8042.h"
#include "cloister/devices/serial.h"
#include "cloister/kvm/vm.h"
#include "cloister/vmm/kvm_irq_line.h"

namespace cloister::vmm {

// What the platform's devices tell the VM. Called on vCPU threads without a
// lock; must not block.
struct PlatformEvents {
  std::function<void()> on_power_off;
  std::function<void()> on_reset;
  // A byte written to kBootMarkerPort, and when.
  std::function<void(uint8_t, std::chrono::steady_clock::time_point)>
      on_boot_marker;
  // The launch shim's verdict: a byte written to its status port.
  std::function<void(uint8_t)> on_shim_status;
  // The serial port can take input again.
  std::function<void()> on_console_room;
};

struct PlatformOptions {
  uint64_t ram_below_4gib = 0;
  uint64_t ram_above_4gib = 0;
  PlatformEvents events;
};

// The fixed devices of every VM and the buses they sit on: serial port, RTC,
// keyboard controller, ACPI power management, boot and shim status ports.
// Thread-safe as its parts are.
class Platform {
 public:
  // `vm` has its irqchip; it, `console` and `log` must outlive the platform.
  static absl::StatusOr<std::unique_ptr<Platform>> Create(
      const kvm::Vm& vm, devices::SerialSink& console, PlatformOptions options,
      base::Logger& log);
  Platform(const Platform&) = delete;
  Platform& operator=(const Platform&) = delete;

  devices::Bus& pio() { return pio_; }
  devices::Bus& mmio() { return mmio_; }
  devices::Serial& serial() { return *serial_; }
  devices::AcpiPm& power() { return *power_; }
  devices::I8042& keyboard() { return *keyboard_; }

 private:
  Platform(const kvm::Vm& vm, base::Logger& log);
  absl::Status AddDevices(devices::SerialSink& console,
                          const PlatformOptions& options);

  KvmIrqLine keyboard_irq_;
  KvmIrqLine serial_irq_;
  KvmIrqLine sci_;
  devices::Bus pio_;
  devices::Bus mmio_;
  std::shared_ptr<devices::Serial> serial_;
  std::shared_ptr<devices::AcpiPm> power_;
  std::shared_ptr<devices::I8042> keyboard_;
};

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_PLATFORM_H_
