// SPDX-License-Identifier: Apache-2.0
#include "cloister/cli/sandbox/identity.h"

#include <grp.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <optional>
#include <string>

#include "cloister/base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::cli {
namespace {

using ::cloister::base::StatusIs;
using ::testing::HasSubstr;

TEST(IdentityTest, MistakesNameTheOption) {
  for (const char* user : {"root", "0"}) {
    EXPECT_THAT(
        ResolveIdentity(user, "").status(),
        StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--user")));
  }
  EXPECT_THAT(ResolveIdentity("no-such-user-here", "").status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("--user no-such-user-here")));
  EXPECT_THAT(ResolveIdentity("", "no-such-group-here").status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("--group no-such-group-here")));
  EXPECT_THAT(ResolveIdentity("4294967295", "1").status(),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(ResolveIdentity("99999999999", "1").status(),
              StatusIs(absl::StatusCode::kInvalidArgument));
  // No account, so no group of its own.
  EXPECT_THAT(
      ResolveIdentity("3999999999", "").status(),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--group")));
}

TEST(IdentityTest, NumbersNeedNoAccount) {
  ASSERT_OK_AND_ASSIGN(Identity identity, ResolveIdentity("3999999999", "77"));
  EXPECT_EQ(identity.uid, 3999999999u);
  EXPECT_EQ(identity.gid, 77u);
  ASSERT_OK_AND_ASSIGN(identity, ResolveIdentity("", ""));
  EXPECT_TRUE(identity.empty());
}

TEST(IdentityTest, NamesAreThoseOfTheFiles) {
  ASSERT_OK_AND_ASSIGN(Identity identity, ResolveIdentity("nobody", ""));
  EXPECT_EQ(identity.uid, 65534u);
  EXPECT_EQ(identity.gid, 65534u);
  // A group that is given comes before the account's own.
  ASSERT_OK_AND_ASSIGN(identity, ResolveIdentity("nobody", "root"));
  EXPECT_EQ(identity.uid, 65534u);
  EXPECT_EQ(identity.gid, 0u);
  ASSERT_OK_AND_ASSIGN(identity, ResolveIdentity("", "root"));
  EXPECT_EQ(identity.uid, std::nullopt);
  EXPECT_FALSE(identity.empty());
}

// In processes of their own: there is no way back.

int BecomeAndLook() {
  const gid_t groups[] = {1, 2};
  if (::setgroups(2, groups) != 0) return 11;
  if (!EmptyBoundingSet().ok()) return 1;
  if (!BecomeIdentity({.uid = 12345, .gid = 23456}).ok()) return 2;
  if (::getuid() != 12345 || ::geteuid() != 12345) return 3;
  if (::getgid() != 23456 || ::getegid() != 23456) return 4;
  if (::getgroups(0, nullptr) != 0) return 5;
  if (::prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) != 0) return 6;
  for (int capability = 0; capability < 40; ++capability) {
    if (::prctl(PR_CAPBSET_READ, capability, 0, 0, 0) != 0) return 7;
  }
  // Neither back nor on to somebody else.
  if (::setresuid(0, 0, 0) == 0) return 8;
  const absl::Status again = BecomeIdentity({.uid = 1, .gid = 1});
  if (again.code() != absl::StatusCode::kPermissionDenied) return 9;
  return again.message().find("--group") == absl::string_view::npos ? 10 : 42;
}

TEST(IdentityDeathTest, ItIsTakenWholeAndForGood) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become somebody else";
  EXPECT_EXIT(::_exit(BecomeAndLook()), ::testing::ExitedWithCode(42), "");
}

// A changed group, too, makes the kernel think again.
TEST(IdentityDeathTest, AGroupAloneLeavesNothingToDump) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can change its group";
  for (gid_t gid : {::getegid(), gid_t{23456}}) {
    EXPECT_EXIT(
        {
          const bool good =
              ::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0 &&
              BecomeIdentity({.uid = std::nullopt, .gid = gid}).ok() &&
              ::getegid() == gid && ::prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0;
          ::_exit(good ? 42 : 1);
        },
        ::testing::ExitedWithCode(42), "");
  }
}

TEST(IdentityDeathTest, NobodyChangesNothing) {
  EXPECT_EXIT(
      {
        const uid_t before = ::getuid();
        const bool good = BecomeIdentity({}).ok() && ::getuid() == before;
        ::_exit(good ? 42 : 1);
      },
      ::testing::ExitedWithCode(42), "");
}

}  // namespace
}  // namespace cloister::cli
