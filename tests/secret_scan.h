// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_TESTS_SECRET_SCAN_H_
#define CLOISTER_TESTS_SECRET_SCAN_H_

#include <sys/types.h>

#include <cstdint>

#include "absl/status/statusor.h"
#include "cloister/tests/micro_secret.h"

namespace cloister::tests {

// What a scan of a process's memory found.
struct SecretScan {
  uint64_t found = 0;  // places, in everything
  uint64_t found_in_guest_memory = 0;
  uint64_t read_bytes = 0;   // what was never written counts as read
  uint64_t guest_bytes = 0;  // of the memfds that hold shared memory
};

// Looks for `needle` in everything that `pid` maps. Pages that cannot be read
// (a guest_memfd's) are passed over; holes of memfds and pages that were never
// written are not filled by looking. PermissionDenied without root's rights,
// since a monitor lets nobody else read it. Blocks; any thread.
absl::StatusOr<SecretScan> ScanProcess(pid_t pid, const Secret& needle);

}  // namespace cloister::tests

#endif  // CLOISTER_TESTS_SECRET_SCAN_H_
