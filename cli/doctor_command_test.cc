// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/doctor_command.h"

#include <nlohmann/json.hpp>
#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

using confidential::BackendKind;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

vmm::HostReport GoodHost() {
  vmm::HostReport report;
  report.kvm.api_version = 12;
  report.kvm.max_vcpus = 64;
  report.kvm.guest_memfd = true;
  report.kvm.guest_memfd_flags = 3;
  report.cpu_vendor = "AuthenticAMD";
  report.c_bit = 47;
  report.backends = {{BackendKind::kOff, ""}, {BackendKind::kEmulated, ""}};
  return report;
}

// Everything that KVM may offer.
vmm::HostReport RichHost() {
  vmm::HostReport report = GoodHost();
  report.kvm.memory_slots = 32764;
  report.kvm.vm_types_mask = 3;
  report.kvm.irqchip = report.kvm.split_irqchip = true;
  report.kvm.irqfd = report.kvm.ioeventfd = true;
  report.kvm.immediate_exit = report.kvm.user_memory2 = true;
  report.kvm.memory_attributes_mask = 8;
  report.kvm.exit_hypercall_mask = 1 << 12;
  report.kvm.user_space_msr_mask = 7;
  report.kvm.pre_fault_memory = report.kvm.sw_protected_vm = true;
  report.backends.push_back({BackendKind::kSwProtected, ""});
  return report;
}

TEST(DoctorTest, AGoodHostNeedsNoAdvice) {
  EXPECT_EQ(DoctorText(RichHost()), R"(/dev/kvm:
  API version                  12
  CPU                          AuthenticAMD
  vCPUs per VM                 64
  memory slots                 32764
  irqchip in the kernel        yes
  split irqchip                yes
  irqfd and ioeventfd          yes
  immediate exit               yes
  memory slots, version 2      yes
  guest_memfd                  yes, mmap, init-shared
  memory attributes (PRIVATE)  yes
  exits for MAP_GPA_RANGE      yes
  user space MSRs              yes
  pre-fault memory             yes
  software-protected VMs       yes
  software C-bit               bit 47
Linux guests: yes
Confidential backends:
  off                          works
  emulated                     works
  sw-protected                 works
  sev-snp, tdx                 not implemented yet
)");
}

TEST(DoctorTest, APlainHostIsToldWhatIsMissingAndHowToGetIt) {
  vmm::HostReport report;
  report.kvm.api_version = 12;
  report.kvm.max_vcpus = 4;
  report.kvm.memory_slots = 32;
  report.cpu_vendor = "GenuineIntel";
  report.linux_guests =
      absl::UnavailableError("this KVM did not deliver #BP to a test guest");
  report.backends = {{BackendKind::kOff, ""},
                     {BackendKind::kEmulated, "VMMCALL"},
                     {BackendKind::kSwProtected, "guest_memfd"}};
  EXPECT_EQ(DoctorText(report), R"(/dev/kvm:
  API version                  12
  CPU                          GenuineIntel
  vCPUs per VM                 4
  memory slots                 32
  irqchip in the kernel        no
  split irqchip                no
  irqfd and ioeventfd          no
  immediate exit               no
  memory slots, version 2      no
  guest_memfd                  no
  memory attributes (PRIVATE)  no
  exits for MAP_GPA_RANGE      no
  user space MSRs              no
  pre-fault memory             no
  software-protected VMs       no
Linux guests: no. this KVM did not deliver #BP to a test guest
  A machine with VT-x or SVM exposed to it runs Linux guests; on this one
  use the nested lab: ./dev run, or ./dev lab <program>.
Confidential backends:
  off                          works
  emulated                     lacks VMMCALL
  sw-protected                 lacks guest_memfd
  sev-snp, tdx                 not implemented yet
  Private memory needs Linux 6.8 or newer with CONFIG_KVM_SW_PROTECTED_VM
  and hardware virtualisation; the nested lab has both: ./dev lab.
)");
}

// What no test above tells apart: a capability that is half there.
TEST(DoctorTest, HalfOfAPairIsNotThere) {
  vmm::HostReport report = RichHost();
  report.kvm.ioeventfd = false;
  report.kvm.memory_attributes_mask = 7;
  report.kvm.exit_hypercall_mask = ~(1u << 12);
  report.kvm.guest_memfd_flags = 2;
  EXPECT_THAT(DoctorText(report),
              AllOf(HasSubstr("irqfd and ioeventfd          no\n"),
                    HasSubstr("memory attributes (PRIVATE)  no\n"),
                    HasSubstr("exits for MAP_GPA_RANGE      no\n"),
                    HasSubstr("guest_memfd                  yes, init-shared"),
                    Not(HasSubstr("mmap"))));
}

TEST(DoctorTest, SaysWhatIsMissingAndHowToGetIt) {
  vmm::HostReport report = GoodHost();
  report.linux_guests = absl::UnavailableError("no #PF");
  report.backends.push_back({BackendKind::kSwProtected, "a newer kernel"});
  EXPECT_THAT(
      DoctorText(report),
      AllOf(HasSubstr("no. no #PF"), HasSubstr("lacks a newer kernel"),
            HasSubstr("CONFIG_KVM_SW_PROTECTED_VM"), HasSubstr("./dev lab")));
}

TEST(DoctorTest, WithoutKvmThereIsTheReasonAndTheLab) {
  vmm::HostReport report;
  report.kvm_error = absl::NotFoundError("no such device");
  report.linux_guests = report.kvm_error;
  EXPECT_THAT(DoctorText(report),
              AllOf(HasSubstr("no such device"), HasSubstr("./dev lab")));
  nlohmann::json json = nlohmann::json::parse(DoctorJson(report));
  EXPECT_FALSE(json["kvm"]["usable"]);
  EXPECT_EQ(json["kvm"]["error"], "no such device");
  EXPECT_FALSE(json["linux_guests"]["works"]);
}

TEST(DoctorTest, JsonSaysTheSame) {
  vmm::HostReport report = GoodHost();
  report.backends.push_back({BackendKind::kSwProtected, "x"});
  nlohmann::json json = nlohmann::json::parse(DoctorJson(report));
  EXPECT_TRUE(json["kvm"]["usable"]);
  EXPECT_EQ(json["kvm"]["capabilities"]["api_version"], 12);
  EXPECT_EQ(json["c_bit"], 47);
  ASSERT_EQ(json["backends"].size(), 3u);
  EXPECT_EQ(json["backends"][2]["name"], "sw-protected");
  EXPECT_EQ(json["backends"][2]["missing"], "x");
  EXPECT_FALSE(json["backends"][2]["works"]);
}

}  // namespace
}  // namespace cloister::cli
