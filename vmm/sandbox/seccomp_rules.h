// SPDX-License-Identifier: Apache-2.0
//
// Which system calls each kind of thread may make, and why: a table that the
// filters are built from, and that docs/sandbox.md is checked against.
#ifndef CLOISTER_VMM_SANDBOX_SECCOMP_RULES_H_
#define CLOISTER_VMM_SANDBOX_SECCOMP_RULES_H_

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cloister/vmm/sandbox/thread_kind.h"

namespace cloister::vmm {

// Kinds of threads, as bits.
using ThreadSet = uint32_t;
constexpr ThreadSet ThreadBit(ThreadKind kind) {
  return ThreadSet{1} << static_cast<int>(kind);
}
// A thread inherits the filter of the one that starts it, and the main thread
// starts all: what any of them may do, the main thread may too.
constexpr ThreadSet Threads(ThreadSet others) {
  return others | ThreadBit(ThreadKind::kMain);
}

// True of a call whose argument `index` has `value` in the bits of `mask`.
struct ArgumentCheck {
  unsigned index = 0;
  uint64_t mask = ~uint64_t{0};
  uint64_t value = 0;
};

struct SeccompRule {
  enum class Action {
    kAllow,
    // The call fails with ENOSYS, and the C library does without it.
    kNotThere,
  };
  const char* name = "";  // of the system call
  ThreadSet threads = 0;
  // What `checks` demand of the arguments, for people; empty: nothing.
  std::string condition;
  std::vector<ArgumentCheck> checks;  // all of them must hold
  const char* why = "";
  Action action = Action::kAllow;
};

// What the rules depend on that only the process knows.
struct SeccompFacts {
  // Threads are signalled in this process only.
  pid_t process = 0;
  // The identities that the process may yet take on (--user, --group).
  std::optional<uid_t> uid = std::nullopt;
  std::optional<gid_t> gid = std::nullopt;
};

// The table. A call is allowed if one of its rules holds.
std::vector<SeccompRule> SeccompRules(const SeccompFacts& facts);

// The table as Markdown, one row for each rule: what docs/sandbox.md shows.
std::string SeccompTable(const std::vector<SeccompRule>& rules);

}  // namespace cloister::vmm

#endif  // CLOISTER_VMM_SANDBOX_SECCOMP_RULES_H_
