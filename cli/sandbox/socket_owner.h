// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_CLI_SANDBOX_SOCKET_OWNER_H_
#define CLOISTER_CLI_SANDBOX_SOCKET_OWNER_H_

#include "cloister/cli/sandbox/identity.h"

namespace cloister::cli {

// Gives the files of this process's listening sockets, and their locks, to the
// user it is about to become, who may then remove them from a folder such as
// /tmp; their group stays. Only what is this user's and has one name is given
// away; of what cannot be, the owner stays. Nothing without `identity.uid`.
//
// A socket is known by its name: whoever else may rename files in its folder
// could put another socket of this user's there.
void GiveSocketFiles(const Identity& identity);

}  // namespace cloister::cli

#endif  // CLOISTER_CLI_SANDBOX_SOCKET_OWNER_H_
