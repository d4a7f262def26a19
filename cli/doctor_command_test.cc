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

TEST(DoctorTest, AGoodHostNeedsNoAdvice) {
  std::string text = DoctorText(GoodHost());
  EXPECT_THAT(text, HasSubstr("Linux guests: yes"));
  EXPECT_THAT(text, HasSubstr("yes, mmap, init-shared"));
  EXPECT_THAT(text, HasSubstr("bit 47"));
  EXPECT_THAT(text, Not(HasSubstr("./dev lab")));
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
