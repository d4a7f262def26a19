// SPDX-License-Identifier: Apache-2.0
#include "cloister/vmm/sandbox/seccomp_rules.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace cloister::vmm {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::vector<SeccompRule> Rules() { return SeccompRules({.process = 1}); }

TEST(SeccompRulesTest, TheMainThreadMayDoWhatAnyThreadMay) {
  for (const SeccompRule& rule : Rules()) {
    EXPECT_TRUE(rule.threads & ThreadBit(ThreadKind::kMain)) << rule.name;
    EXPECT_STRNE(rule.why, "") << rule.name;
    EXPECT_EQ(
        rule.checks.empty(),
        rule.condition.empty() || rule.action == SeccompRule::Action::kNotThere)
        << rule.name << ": " << rule.condition;
  }
}

// A rule without conditions would silently cover one with them.
TEST(SeccompRulesTest, NoCallIsAllowedBothWithAndWithoutConditions) {
  for (int kind = 0; kind < kThreadKinds; ++kind) {
    std::set<std::string> plain, checked;
    for (const SeccompRule& rule : Rules()) {
      if (!(rule.threads & ThreadBit(static_cast<ThreadKind>(kind)))) continue;
      (rule.checks.empty() ? plain : checked).insert(rule.name);
    }
    for (const std::string& name : plain) {
      EXPECT_EQ(checked.count(name), 0u) << name;
    }
  }
}

TEST(SeccompRulesTest, NothingStartsProgramsOrTouchesOtherProcesses) {
  for (const SeccompRule& rule : Rules()) {
    for (const char* name : {"execve",
                             "execveat",
                             "fork",
                             "vfork",
                             "ptrace",
                             "kill",
                             "process_vm_readv",
                             "process_vm_writev",
                             "pidfd_getfd",
                             "mount",
                             "bpf",
                             "perf_event_open",
                             "userfaultfd",
                             "init_module",
                             "setuid",
                             "keyctl",
                             "personality",
                             "unshare",
                             "setns",
                             "chroot"}) {
      EXPECT_STRNE(rule.name, name);
    }
  }
}

TEST(SeccompRulesTest, MemoryIsNeverMadeExecutable) {
  for (const SeccompRule& rule : Rules()) {
    if (std::string(rule.name) != "mmap" &&
        std::string(rule.name) != "mprotect") {
      continue;
    }
    ASSERT_EQ(rule.checks.size(), 1u);
    EXPECT_EQ(rule.checks[0].index, 2u);
    EXPECT_EQ(rule.checks[0].mask, static_cast<uint64_t>(PROT_EXEC));
    EXPECT_EQ(rule.checks[0].value, 0u);
  }
}

TEST(SeccompRulesTest, IdentitiesChangeOnlyWhereAskedFor) {
  EXPECT_THAT(SeccompTable(Rules()), Not(HasSubstr("setres")));
  std::string table =
      SeccompTable(SeccompRules({.process = 1, .uid = 7, .gid = 8}));
  EXPECT_THAT(table, HasSubstr("setresuid"));
  EXPECT_THAT(table, HasSubstr("setresgid"));
  EXPECT_THAT(table, HasSubstr("setgroups"));
}

// docs/sandbox.md shows the table as it is.
TEST(SeccompRulesTest, TheDocumentationHasThisTable) {
  std::ifstream file("docs/sandbox.md");
  std::stringstream text;
  text << file.rdbuf();
  const std::string table =
      SeccompTable(SeccompRules({.process = 1, .uid = 7, .gid = 8}));
  EXPECT_NE(text.str().find(table), std::string::npos)
      << "docs/sandbox.md must have this table:\n"
      << table;
}

}  // namespace
}  // namespace cloister::vmm
