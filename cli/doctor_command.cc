// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/doctor_command.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "cloister/cli/exit_code.h"
#include "cloister/cli/vm_process.h"

namespace cloister::cli {
namespace {

using confidential::BackendKindName;

constexpr char kHowToGetLinux[] =
    "  A machine with VT-x or SVM exposed to it runs Linux guests; on this "
    "one\n"
    "  use the nested lab: ./dev run, or ./dev lab <program>.\n";
constexpr char kHowToGetPrivate[] =
    "  Private memory needs Linux 6.8 or newer with "
    "CONFIG_KVM_SW_PROTECTED_VM\n"
    "  and hardware virtualisation; the nested lab has both: ./dev lab.\n";

std::string Line(absl::string_view name, absl::string_view value) {
  return absl::StrFormat("  %-28s %s\n", name, value);
}

std::string YesNo(absl::string_view name, bool value) {
  return Line(name, value ? "yes" : "no");
}

std::string GuestMemfd(const kvm::CapabilityReport& kvm) {
  if (!kvm.guest_memfd) return "no";
  std::string text = "yes";
  if (kvm.guest_memfd_flags & 1) absl::StrAppend(&text, ", mmap");
  if (kvm.guest_memfd_flags & 2) absl::StrAppend(&text, ", init-shared");
  return text;
}

std::string Capabilities(const vmm::HostReport& report) {
  const kvm::CapabilityReport& kvm = report.kvm;
  std::string text = "/dev/kvm:\n";
  absl::StrAppend(
      &text, Line("API version", absl::StrCat(kvm.api_version)),
      Line("CPU", report.cpu_vendor),
      Line("vCPUs per VM", absl::StrCat(kvm.max_vcpus)),
      Line("memory slots", absl::StrCat(kvm.memory_slots)),
      YesNo("irqchip in the kernel", kvm.irqchip),
      YesNo("split irqchip", kvm.split_irqchip),
      YesNo("irqfd and ioeventfd", kvm.irqfd && kvm.ioeventfd),
      YesNo("immediate exit", kvm.immediate_exit),
      YesNo("memory slots, version 2", kvm.user_memory2),
      Line("guest_memfd", GuestMemfd(kvm)),
      YesNo("memory attributes (PRIVATE)", kvm.memory_attributes_mask & 8),
      YesNo("exits for MAP_GPA_RANGE", kvm.map_gpa_range_exits()),
      YesNo("user space MSRs", kvm.user_space_msr_mask != 0),
      YesNo("pre-fault memory", kvm.pre_fault_memory),
      YesNo("software-protected VMs", kvm.sw_protected_vm));
  if (report.c_bit.has_value()) {
    absl::StrAppend(
        &text, Line("software C-bit", absl::StrCat("bit ", *report.c_bit)));
  }
  return text;
}

nlohmann::json CapabilityJson(const kvm::CapabilityReport& kvm) {
  return {
      {"api_version", kvm.api_version},
      {"max_vcpus", kvm.max_vcpus},
      {"memory_slots", kvm.memory_slots},
      {"vm_types_mask", kvm.vm_types_mask},
      {"irqchip", kvm.irqchip},
      {"split_irqchip", kvm.split_irqchip},
      {"irqfd", kvm.irqfd},
      {"ioeventfd", kvm.ioeventfd},
      {"immediate_exit", kvm.immediate_exit},
      {"user_memory2", kvm.user_memory2},
      {"guest_memfd", kvm.guest_memfd},
      {"guest_memfd_flags", kvm.guest_memfd_flags},
      {"sw_protected_guest_memfd_flags", kvm.sw_protected_guest_memfd_flags},
      {"memory_attributes_mask", kvm.memory_attributes_mask},
      {"exit_hypercall_mask", kvm.exit_hypercall_mask},
      {"user_space_msr_mask", kvm.user_space_msr_mask},
      {"pre_fault_memory", kvm.pre_fault_memory},
      {"sw_protected_vm", kvm.sw_protected_vm}};
}

}  // namespace

std::string DoctorText(const vmm::HostReport& report) {
  if (!report.kvm_error.ok()) {
    return absl::StrCat("/dev/kvm: ", report.kvm_error.message(), "\n",
                        kHowToGetLinux);
  }
  std::string text = Capabilities(report);
  absl::StrAppend(&text, "Linux guests: ",
                  report.linux_guests.ok()
                      ? std::string("yes")
                      : absl::StrCat("no. ", report.linux_guests.message()),
                  "\n");
  if (!report.linux_guests.ok()) absl::StrAppend(&text, kHowToGetLinux);
  absl::StrAppend(&text, "Confidential backends:\n");
  bool all = true;
  for (const vmm::BackendReport& backend : report.backends) {
    all = all && backend.missing.empty();
    absl::StrAppend(&text, Line(BackendKindName(backend.kind),
                                backend.missing.empty()
                                    ? std::string("works")
                                    : absl::StrCat("lacks ", backend.missing)));
  }
  absl::StrAppend(&text, Line("sev-snp, tdx", "not implemented yet"));
  if (!all) absl::StrAppend(&text, kHowToGetPrivate);
  return text;
}

std::string DoctorJson(const vmm::HostReport& report) {
  nlohmann::json json;
  json["kvm"]["usable"] = report.kvm_error.ok();
  if (!report.kvm_error.ok()) {
    json["kvm"]["error"] = std::string(report.kvm_error.message());
  } else {
    json["kvm"]["capabilities"] = CapabilityJson(report.kvm);
    json["cpu_vendor"] = report.cpu_vendor;
  }
  json["linux_guests"]["works"] = report.linux_guests.ok();
  if (!report.linux_guests.ok()) {
    json["linux_guests"]["reason"] = std::string(report.linux_guests.message());
  }
  if (report.c_bit.has_value()) json["c_bit"] = *report.c_bit;
  json["backends"] = nlohmann::json::array();
  for (const vmm::BackendReport& backend : report.backends) {
    nlohmann::json entry = {{"name", BackendKindName(backend.kind).data()},
                            {"works", backend.missing.empty()}};
    if (!backend.missing.empty()) entry["missing"] = backend.missing;
    json["backends"].push_back(entry);
  }
  return json.dump(2) + "\n";
}

int DoctorCommand(const DoctorOptions& options) {
  vmm::HostReport report = vmm::ExamineHost(KickSignal());
  if (options.can_boot_linux) {
    std::printf("%s\n",
                report.linux_guests.ok()
                    ? "Linux guests run here"
                    : std::string(report.linux_guests.message()).c_str());
    return report.linux_guests.ok() ? kExitOk : kExitError;
  }
  std::fputs((options.json ? DoctorJson(report) : DoctorText(report)).c_str(),
             stdout);
  return report.kvm_error.ok() ? kExitOk : kExitError;
}

}  // namespace cloister::cli
