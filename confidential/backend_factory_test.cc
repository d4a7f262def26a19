// SPDX-License-Identifier: Apache-2.0
#include "cloister/confidential/backend_factory.h"

#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::confidential {
namespace {

using ::cloister::base::IsOkAndHolds;
using ::cloister::base::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;

HostFacts Everything() {
  HostFacts facts;
  facts.vendor = "AuthenticAMD";
  facts.svm = true;
  facts.kvm.default_vm = true;
  facts.kvm.sw_protected_vm = true;
  facts.kvm.exit_hypercall_mask = 1u << 12;
  facts.kvm.memory_attributes_mask = 8;
  facts.kvm.guest_memfd = true;
  facts.kvm.user_memory2 = true;
  return facts;
}

TEST(BackendFactoryTest, AutoTakesTheStrongest) {
  HostFacts facts = Everything();
  EXPECT_THAT(ChooseBackend(BackendChoice::kAuto, facts),
              IsOkAndHolds(BackendKind::kSwProtected));
  facts.kvm.sw_protected_vm = false;
  EXPECT_THAT(ChooseBackend(BackendChoice::kAuto, facts),
              IsOkAndHolds(BackendKind::kEmulated));
  facts.vendor = "GenuineIntel";
  EXPECT_THAT(ChooseBackend(BackendChoice::kAuto, facts),
              IsOkAndHolds(BackendKind::kOff));
}

TEST(BackendFactoryTest, AskingForMoreThanTheHostHasNamesWhatIsMissing) {
  HostFacts facts = Everything();
  facts.kvm.sw_protected_vm = false;
  facts.kvm.sw_protected_vm_error = "EINVAL";
  EXPECT_THAT(ChooseBackend(BackendChoice::kSwProtected, facts),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("--confidential sw-protected"),
                             HasSubstr("CONFIG_KVM_SW_PROTECTED_VM"),
                             HasSubstr("EINVAL"))));
  facts = Everything();
  facts.kvm.exit_hypercall_mask = 0;
  EXPECT_THAT(ChooseBackend(BackendChoice::kEmulated, facts),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("MAP_GPA_RANGE")));
  facts.kvm.default_vm = false;
  facts.kvm.default_vm_error = "ENOMEM";
  EXPECT_THAT(
      ChooseBackend(BackendChoice::kOff, facts),
      StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("ENOMEM")));
}

// On Intel the strongest backend works without hypercalls; whoever asks for
// one by name has asked for a digest, too.
TEST(BackendFactoryTest, AutoDoesWithoutHypercallsWhereThereAreNone) {
  HostFacts facts = Everything();
  for (BackendChoice choice :
       {BackendChoice::kAuto, BackendChoice::kSwProtected}) {
    EXPECT_THAT(ChooseHypercalls(choice, true, facts), IsOkAndHolds(true));
    EXPECT_THAT(ChooseHypercalls(choice, false, facts), IsOkAndHolds(false));
  }
  facts.vendor = "GenuineIntel";
  EXPECT_THAT(ChooseBackend(BackendChoice::kAuto, facts),
              IsOkAndHolds(BackendKind::kSwProtected));
  EXPECT_THAT(ChooseHypercalls(BackendChoice::kAuto, true, facts),
              IsOkAndHolds(false));
  EXPECT_THAT(ChooseHypercalls(BackendChoice::kSwProtected, false, facts),
              IsOkAndHolds(false));
  EXPECT_THAT(
      ChooseHypercalls(BackendChoice::kSwProtected, true, facts),
      StatusIs(absl::StatusCode::kFailedPrecondition,
               AllOf(HasSubstr("VMMCALL"), HasSubstr("reports fault"))));
}

// A KVM without hardware virtualisation, on AMD: its guests' VMMCALL goes
// elsewhere. Who asks for emulated by name can have it without reports.
TEST(BackendFactoryTest, WithoutSvmThereIsNoVmmcall) {
  HostFacts facts = Everything();
  facts.svm = false;
  EXPECT_THAT(MissingFor(BackendKind::kEmulated, facts), HasSubstr("SVM"));
  EXPECT_EQ(MissingFor(BackendKind::kEmulated, facts, false), "");
  facts.kvm.sw_protected_vm = false;
  EXPECT_THAT(ChooseBackend(BackendChoice::kAuto, facts),
              IsOkAndHolds(BackendKind::kOff));
  EXPECT_THAT(ChooseBackend(BackendChoice::kEmulated, facts),
              IsOkAndHolds(BackendKind::kEmulated));
  EXPECT_THAT(ChooseHypercalls(BackendChoice::kEmulated, false, facts),
              IsOkAndHolds(false));
  EXPECT_THAT(
      ChooseHypercalls(BackendChoice::kEmulated, true, facts),
      StatusIs(absl::StatusCode::kFailedPrecondition,
               AllOf(HasSubstr("VMMCALL"), HasSubstr("reports fault"))));
  EXPECT_THAT(ChooseHypercalls(BackendChoice::kAuto, true, facts),
              IsOkAndHolds(false));
}

// Each thing that sw-protected needs is missed when it is not there.
TEST(BackendFactoryTest, EveryRequirementOfSwProtectedCounts) {
  EXPECT_EQ(MissingFor(BackendKind::kSwProtected, Everything()), "");
  HostFacts facts = Everything();
  facts.kvm.memory_attributes_mask = 0;
  EXPECT_NE(MissingFor(BackendKind::kSwProtected, facts), "");
  facts = Everything();
  facts.kvm.guest_memfd = false;
  EXPECT_NE(MissingFor(BackendKind::kSwProtected, facts), "");
  facts = Everything();
  facts.kvm.user_memory2 = false;
  EXPECT_NE(MissingFor(BackendKind::kSwProtected, facts), "");
}

}  // namespace
}  // namespace cloister::confidential
