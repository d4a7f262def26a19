// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/launch_plan.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "cloister/base/status_macros.h"
#include "cloister/boot/e820.h"
#include "cloister/boot/linux_loader.h"
#include "cloister/boot/shim/layout.h"
#include "cloister/vmm/device_config.h"
#include "cloister/vmm/layout.h"
#include "cloister/vmm/size.h"

namespace cloister::vmm {
namespace {

using memory::GuestAddress;
using memory::GuestRange;

std::vector<uint32_t> ApicIds(const vcpu::CpuTopology& topology) {
  std::vector<uint32_t> ids;
  for (uint32_t i = 0; i < topology.count; ++i) {
    ids.push_back(topology.ApicId(i));
  }
  return ids;
}

std::string TransportText(VirtioTransport transport) {
  switch (transport) {
    case VirtioTransport::kPci:
      return "virtio pci\n";
    case VirtioTransport::kMmio:
      return "virtio mmio\n";
    case VirtioTransport::kMmioFdt:
      break;
  }
  return "virtio mmio-fdt\n";
}

// What a guest sees of its virtio devices, in the order of their places: not
// what is behind them on the host, nor how fast that may be.
std::string DevicesText(const DevicesConfig& devices, bool msi_x) {
  if (devices.count() == 0) return "";
  // A new kind of device does not compile without a line here.
  const auto& [transport, packed, disks, nets, vsock, rng, balloon, console] =
      devices;
  std::string text = TransportText(transport);
  if (msi_x && transport == VirtioTransport::kPci) text += "msi-x\n";
  if (!packed) text += "split rings\n";
  for (size_t i = 0; i < disks.size(); ++i) {
    absl::StrAppend(
        &text, "disk ", disks[i].read_only ? "read-only" : "read-write", " \"",
        absl::CHexEscape(disks[i].serial.empty() ? DiskId(devices, i)
                                                 : disks[i].serial),
        "\"\n");
  }
  for (const NetConfig& net : nets) {
    absl::StrAppend(&text, "net ", net.queues, " \"", absl::CHexEscape(net.mac),
                    "\"\n");
  }
  if (vsock.has_value()) absl::StrAppend(&text, "vsock ", vsock->cid, "\n");
  if (rng.has_value()) absl::StrAppend(&text, "rng\n");
  if (balloon.has_value()) {
    absl::StrAppend(&text, "balloon ", balloon->target,
                    balloon->deflate_on_oom ? " deflate-on-oom" : "",
                    balloon->reporting ? " reporting" : "",
                    balloon->stats_seconds != 0 ? " statistics" : "", "\n");
  }
  if (console.has_value()) absl::StrAppend(&text, "console\n");
  return text;
}

// Every setting that reaches the guest but is not among the placed pieces or
// the start state: the topology that CPUID shows, memory beside RAM, devices.
// Its text is measured, so a change of its form is a new version; a new kind of
// device is a new line.
std::string PlatformText(const VmConfig& config) {
  std::string text = absl::StrCat("platform 2\nthreads-per-core ",
                                  config.cpus.threads_per_core, "\n");
  for (const GuestRange& window : config.confidential.exchange_windows) {
    absl::StrAppend(&text, "exchange-window 0x",
                    absl::Hex(window.start().value()), " ", window.size(),
                    "\n");
  }
  // Of a guest that is not confidential nothing is measured.
  return text +
         DevicesText(config.devices, OffersMsiX(config.confidential.backend,
                                                /*is_confidential=*/true));
}

absl::Status CheckWindow(const GuestRange& window,
                         absl::Span<const boot::E820Entry> e820) {
  auto refuse = [&](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("exchange window ", window.ToString(), ": ", why));
  };
  if (!window.IsPageAligned()) return refuse("not page-aligned");
  if (window.start().value() < kLowMemoryEnd) {
    return refuse("in the low MiB, which is never private");
  }
  ASSIGN_OR_RETURN(GuestRange hole, GuestRange::Create(GuestAddress(kHoleStart),
                                                       kFourGiB - kHoleStart));
  if (window.Overlaps(hole)) return refuse("in the hole below 4 GiB");
  for (const boot::E820Entry& entry : e820) {
    if (window.Overlaps(entry.range)) {
      return refuse(
          absl::StrCat("the guest's e820 table has ", entry.range.ToString()));
    }
  }
  return absl::OkStatus();
}

// `ram` and the exchange windows, which the guest's e820 table must not have.
absl::StatusOr<std::vector<GuestRange>> WithWindows(
    const std::vector<GuestRange>& ram,
    const std::vector<GuestRange>& windows) {
  boot::MemoryLayout layout;
  layout.ram = ram;
  ASSIGN_OR_RETURN(std::vector<boot::E820Entry> e820,
                   boot::BuildE820(layout, /*extra=*/{}));
  std::vector<GuestRange> all = ram;
  for (size_t i = 0; i < windows.size(); ++i) {
    RETURN_IF_ERROR(CheckWindow(windows[i], e820));
    if (i > 0 && windows[i].start() <= windows[i - 1].last()) {
      return absl::InvalidArgumentError(
          absl::StrCat("exchange window ", windows[i].ToString(),
                       ": not above the one before it"));
    }
    all.push_back(windows[i]);
  }
  std::sort(all.begin(), all.end(),
            [](const auto& a, const auto& b) { return a.start() < b.start(); });
  return all;
}

// Linux masks LINT0 when it sets up its local APIC, and opens it again for the
// 8259 only where it knows that it has no IOAPIC to use: it must be told, for
// the MADT's silence is not enough.
std::string CommandLine(const VmConfig& config, bool io_apic) {
  const std::string& given = config.kernel.command_line;
  for (absl::string_view word : absl::StrSplit(given, ' ')) {
    if (io_apic || word == "noapic") return given;
  }
  return absl::StrCat(given, given.empty() ? "" : " ", "noapic");
}

absl::StatusOr<shim::LaunchOptions> PlanShim(const VmConfig& config,
                                             const LaunchPlan& plan,
                                             const ConfidentialLaunch& launch) {
  ASSIGN_OR_RETURN(GuestRange within,
                   GuestRange::Create(GuestAddress(shim::kLowest),
                                      shim::kHighest - shim::kLowest));
  std::optional<GuestAddress> at =
      plan.image.FindHighest(shim::kShimSize, memory::kPageSize, within);
  if (!at.has_value()) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "--memory: ", FormatSize(config.memory.bytes),
        " leave no room for the launch shim beside kernel and initrd"));
  }
  shim::LaunchOptions options;
  options.c_bit = launch.c_bit;
  options.ram = plan.ram;
  options.shim = *at;
  options.pieces = plan.image.pieces();
  options.entry = plan.image.entry();
  options.vcpus = config.cpus.count;
  options.hypercalls =
      config.confidential.reports == ConversionReports::kHypercall;
  options.platform = PlatformText(config);
  return options;
}

}  // namespace

vcpu::CpuTopology TopologyOf(const CpuConfig& config) {
  vcpu::CpuTopology topology;
  topology.count = config.count;
  topology.threads_per_core = config.threads_per_core;
  return topology;
}

absl::StatusOr<LaunchPlan> PlanLaunch(
    const VmConfig& config,
    const std::optional<ConfidentialLaunch>& confidential) {
  RETURN_IF_ERROR(ValidateConfig(config));
  vcpu::CpuTopology topology = TopologyOf(config.cpus);
  ASSIGN_OR_RETURN(std::vector<GuestRange> ram, RamRanges(config.memory.bytes));
  boot::LinuxLoadOptions load;
  load.kernel_path = config.kernel.path;
  load.initrd_path = config.kernel.initrd_path;
  const bool io_apic = UsesIoApic(config.devices.transport,
                                  /*confidential=*/confidential.has_value());
  load.command_line = CommandLine(config, io_apic);
  load.command_line_name = "--append: kernel command line";
  load.memory.ram = ram;
  if (config.devices.transport == VirtioTransport::kMmioFdt) {
    ASSIGN_OR_RETURN(load.device_tree,
                     MakeDeviceTree(ApicIds(topology), config.devices));
  } else {
    load.acpi = MakeAcpiOptions(ApicIds(topology), io_apic);
    RETURN_IF_ERROR(AddVirtio(config.devices, *load.acpi));
  }
  ASSIGN_OR_RETURN(boot::LaunchImage image, boot::LoadLinux(load));
  std::vector<GuestRange> all_ram = ram;
  if (confidential.has_value()) {
    ASSIGN_OR_RETURN(all_ram,
                     WithWindows(ram, config.confidential.exchange_windows));
  }
  LaunchPlan plan{.topology = topology,
                  .ram = std::move(ram),
                  .all_ram = std::move(all_ram),
                  .image = std::move(image),
                  .shim = std::nullopt};
  if (confidential.has_value()) {
    ASSIGN_OR_RETURN(plan.shim, PlanShim(config, plan, *confidential));
  }
  return plan;
}

}  // namespace cloister::vmm
