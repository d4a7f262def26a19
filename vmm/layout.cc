// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/layout.h"

#include <utility>

#include "cloister/base/status_macros.h"
#include "cloister/boot/e820.h"
#include "cloister/devices/acpi_pm.h"

namespace cloister::vmm {

using devices::AcpiPm;
using memory::GuestAddress;
using memory::GuestRange;

absl::StatusOr<std::vector<GuestRange>> RamRanges(uint64_t bytes) {
  ASSIGN_OR_RETURN(GuestRange hole,
                   GuestRange::CreatePageAligned(GuestAddress(kHoleStart),
                                                 kFourGiB - kHoleStart));
  return boot::SplitRam(bytes, hole);
}

boot::AcpiOptions MakeAcpiOptions(std::vector<uint32_t> apic_ids,
                                  bool io_apic) {
  boot::AcpiOptions options;
  options.pm.pm1_event = kAcpiPmPort + AcpiPm::kPm1EventOffset;
  options.pm.pm1_control = kAcpiPmPort + AcpiPm::kPm1ControlOffset;
  options.pm.pm_timer = kAcpiPmPort + AcpiPm::kPmTimerOffset;
  options.pm.gpe0 = kAcpiPmPort + AcpiPm::kGpe0Offset;
  options.pm.gpe0_length = 4;
  options.sci_irq = kSciIrq;
  options.reset = boot::AcpiResetRegister{
      .port = kAcpiPmPort + AcpiPm::kResetOffset, .value = 1};
  options.i8042 = true;
  options.apic_ids = std::move(apic_ids);
  if (io_apic) options.io_apic = boot::AcpiIoApic{};
  options.serial_ports.push_back(
      boot::AcpiSerialPort{.port = kCom1Port, .irq = kCom1Irq});
  return options;
}

}  // namespace cloister::vmm
