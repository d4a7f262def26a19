// SPDX-License-Identifier: Apache-2.0
#include "cloister/boot/linux_fdt.h"

#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/boot/fdt.h"

namespace cloister::boot {
namespace {

constexpr uint32_t kIoApicHandle = 1;
constexpr uint64_t kApicRegisters = 0x1000;
// The second cell of an interrupt of Linux's "intel,ce4100-ioapic".
constexpr uint32_t kLevelHigh = 1;

absl::Status Check(const LinuxFdtOptions& options) {
  if (options.apic_ids.empty()) {
    return absl::InvalidArgumentError("device tree: no processor");
  }
  std::set<uint32_t> ids;
  for (uint32_t id : options.apic_ids) {
    if (!ids.insert(id).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("device tree: two processors with APIC id ", id));
    }
  }
  std::set<uint64_t> addresses;
  for (const FdtVirtioMmio& device : options.virtio_mmio) {
    if (!addresses.insert(device.registers.start().value()).second) {
      return absl::InvalidArgumentError(absl::StrCat(
          "device tree: two devices at ", device.registers.ToString()));
    }
  }
  return absl::OkStatus();
}

std::string At(absl::string_view name, uint64_t address) {
  return absl::StrCat(name, "@", absl::Hex(address));
}

void AddCpus(const LinuxFdtOptions& options, FdtBuilder& fdt) {
  fdt.BeginNode("cpus");
  fdt.U32("#address-cells", 1);
  fdt.U32("#size-cells", 0);
  for (uint32_t id : options.apic_ids) {
    fdt.BeginNode(At("cpu", id));
    fdt.String("device_type", "cpu");
    fdt.U32("reg", id);
    fdt.EndNode();
  }
  fdt.EndNode();
}

// By the names under which Linux knows the two controllers of any PC.
void AddInterruptControllers(const LinuxFdtOptions& options, FdtBuilder& fdt) {
  fdt.BeginNode(At("lapic", options.local_apic));
  fdt.String("compatible", "intel,ce4100-lapic");
  fdt.U64List("reg", {options.local_apic, kApicRegisters});
  fdt.EndNode();
  fdt.BeginNode(At("interrupt-controller", options.io_apic));
  fdt.String("compatible", "intel,ce4100-ioapic");
  fdt.U64List("reg", {options.io_apic, kApicRegisters});
  fdt.Empty("interrupt-controller");
  fdt.U32("#interrupt-cells", 2);
  fdt.U32("#address-cells", 0);
  fdt.U32("phandle", kIoApicHandle);
  fdt.EndNode();
}

void AddVirtioMmio(const FdtVirtioMmio& device, FdtBuilder& fdt) {
  const uint64_t address = device.registers.start().value();
  fdt.BeginNode(At("virtio_mmio", address));
  fdt.String("compatible", "virtio,mmio");
  fdt.U64List("reg", {address, device.registers.size()});
  fdt.U32List("interrupts", {device.pin, kLevelHigh});
  fdt.Empty("dma-coherent");
  fdt.EndNode();
}

}  // namespace

absl::StatusOr<std::vector<uint8_t>> BuildLinuxFdt(
    const LinuxFdtOptions& options) {
  RETURN_IF_ERROR(Check(options));
  FdtBuilder fdt;
  fdt.BeginNode("");
  fdt.U32("#address-cells", 2);
  fdt.U32("#size-cells", 2);
  fdt.String("compatible", "cloister,microvm");
  fdt.String("model", "cloister microvm");
  fdt.U32("interrupt-parent", kIoApicHandle);
  AddCpus(options, fdt);
  AddInterruptControllers(options, fdt);
  for (const FdtVirtioMmio& device : options.virtio_mmio) {
    AddVirtioMmio(device, fdt);
  }
  fdt.EndNode();
  return fdt.Finish();
}

}  // namespace cloister::boot
