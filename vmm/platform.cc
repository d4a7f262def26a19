// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/platform.h"

#include <utility>

#include "cloister/base/status_macros.h"
#include "cloister/boot/shim/layout.h"
#include "cloister/devices/boot_marker.h"
#include "cloister/devices/rtc.h"
#include "cloister/devices/system_ports.h"
#include "cloister/vmm/layout.h"

namespace cloister::vmm {

using devices::BootMarker;
using devices::Bus;

Platform::Platform(const kvm::Vm& vm, base::Logger& log)
    : keyboard_irq_(vm, kvm::Gsi(kKeyboardIrq)),
      serial_irq_(vm, kvm::Gsi(kCom1Irq)),
      sci_(vm, kvm::Gsi(kSciIrq)),
      pio_(Bus::Space::kPio, log),
      mmio_(Bus::Space::kMmio, log) {}

absl::StatusOr<std::unique_ptr<Platform>> Platform::Create(
    const kvm::Vm& vm, devices::SerialSink& console, PlatformOptions options,
    base::Logger& log) {
  std::unique_ptr<Platform> platform(new Platform(vm, log));
  RETURN_IF_ERROR(platform->AddDevices(console, options));
  return platform;
}

absl::Status Platform::AddDevices(devices::SerialSink& console,
                                  const PlatformOptions& options) {
  const PlatformEvents& events = options.events;
  serial_ = std::make_shared<devices::Serial>(
      devices::Serial::Options{.on_input_room = events.on_console_room},
      console, serial_irq_);
  RETURN_IF_ERROR(pio_.Insert(kCom1Port, devices::Serial::kPortCount, serial_));

  devices::Rtc::Options rtc;
  rtc.ram_below_4gib = options.ram_below_4gib;
  rtc.ram_above_4gib = options.ram_above_4gib;
  RETURN_IF_ERROR(pio_.Insert(kRtcPort, devices::Rtc::kPortCount,
                              std::make_shared<devices::Rtc>(rtc)));

  keyboard_ = std::make_shared<devices::I8042>(
      devices::I8042::Options{.on_reset = events.on_reset}, keyboard_irq_);
  RETURN_IF_ERROR(
      pio_.Insert(kKeyboardDataPort, 1, {keyboard_, &keyboard_->data_port()}));
  RETURN_IF_ERROR(pio_.Insert(kKeyboardCommandPort, 1,
                              {keyboard_, &keyboard_->command_port()}));
  RETURN_IF_ERROR(
      pio_.Insert(kSystemControlPortA, devices::Port92::kPortCount,
                  std::make_shared<devices::Port92>(events.on_reset)));

  devices::AcpiPm::Options power;
  power.on_power_off = events.on_power_off;
  power.on_reset = events.on_reset;
  power_ = std::make_shared<devices::AcpiPm>(std::move(power), sci_);
  RETURN_IF_ERROR(
      pio_.Insert(kAcpiPmPort, devices::AcpiPm::kPortCount, power_));

  RETURN_IF_ERROR(pio_.Insert(kBootMarkerPort, BootMarker::kPortCount,
                              std::make_shared<BootMarker>(BootMarker::Options{
                                  .on_marker = events.on_boot_marker})));
  return pio_.Insert(
      shim::kStatusPort, BootMarker::kPortCount,
      std::make_shared<BootMarker>(BootMarker::Options{
          .on_marker = [on_status = events.on_shim_status](
                           uint8_t status,
                           std::chrono::steady_clock::time_point /*when*/) {
            on_status(status);
          }}));
}

}  // namespace cloister::vmm
