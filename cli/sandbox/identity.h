// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_SANDBOX_IDENTITY_H_
#define CLOISTER_CLI_SANDBOX_IDENTITY_H_

#include <sys/types.h>

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace cloister::cli {

// Whom the process becomes; nullopt: as it is.
struct Identity {
  std::optional<uid_t> uid;
  std::optional<gid_t> gid;
  bool empty() const { return !uid.has_value() && !gid.has_value(); }
};

// Looks up --user and --group, names or numbers; empty: not given. A user
// without a group takes the group of its account. Names are those of
// /etc/passwd and /etc/group: other name services would load their code into
// the process.
//
// InvalidArgument, naming the option, for unknown names, for user 0, and for a
// number without an account where the group is not given.
absl::StatusOr<Identity> ResolveIdentity(const std::string& user,
                                         const std::string& group);

// Empties the calling thread's bounding set of capabilities, and with it that
// of threads that it starts later. Needs CAP_SETPCAP; without it there is
// nothing to empty that an exec could give, and this does nothing.
absl::Status EmptyBoundingSet();

// Makes every thread of the process that identity, without supplementary
// groups, without capabilities and not dumpable, and checks that there is no
// way back. PermissionDenied, naming the option, if the process may not.
absl::Status BecomeIdentity(const Identity& identity);

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_SANDBOX_IDENTITY_H_
