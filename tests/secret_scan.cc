// SPDX-License-Identifier: Apache-2.0
#include "cloister/tests/secret_scan.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/unique_fd.h"

namespace cloister::tests {
namespace {

// Reads [start, end) of a process a piece at a time.
void ScanRange(int memory, uint64_t start, uint64_t end, const Secret& needle,
               bool is_guest_memory, SecretScan* scan) {
  constexpr uint64_t kPiece = 1 << 20;
  constexpr uint64_t kOverlap = sizeof(Secret) - 1;
  std::vector<char> bytes(kPiece + kOverlap);
  uint64_t kept = 0;  // bytes of the piece before
  for (uint64_t at = start; at < end;) {
    const uint64_t want = std::min(kPiece, end - at);
    const ssize_t got =
        ::pread(memory, bytes.data() + kept, want, static_cast<off_t>(at));
    if (got <= 0) {
      kept = 0;
      at += 4096;
      continue;
    }
    const uint64_t total = kept + static_cast<uint64_t>(got);
    const char* from = bytes.data();
    const char* const stop = from + total;
    while (const void* hit = memmem(from, static_cast<size_t>(stop - from),
                                    needle.data(), sizeof(needle))) {
      ++scan->found;
      scan->found_in_guest_memory += is_guest_memory ? 1 : 0;
      from = static_cast<const char*>(hit) + 1;
    }
    scan->read_bytes += static_cast<uint64_t>(got);
    scan->guest_bytes += is_guest_memory ? static_cast<uint64_t>(got) : 0;
    kept = std::min(kOverlap, total);
    std::memmove(bytes.data(), bytes.data() + total - kept, kept);
    at += static_cast<uint64_t>(got);
  }
}

}  // namespace

absl::StatusOr<SecretScan> ScanProcess(pid_t pid, const Secret& needle) {
  const std::string path = absl::StrCat("/proc/", pid, "/mem");
  base::UniqueFd memory(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!memory.valid()) return absl::ErrnoToStatus(errno, path);
  SecretScan scan;
  std::ifstream maps(absl::StrCat("/proc/", pid, "/maps"));
  std::string line;
  while (std::getline(maps, line)) {
    unsigned long start = 0, end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx", &start, &end) != 2) continue;
    if (line.find("[vvar") != std::string::npos ||
        line.find("[vsyscall]") != std::string::npos) {
      continue;
    }
    ScanRange(memory.get(), start, end, needle,
              line.find("cloister-guest-shared") != std::string::npos, &scan);
  }
  return scan;
}

}  // namespace cloister::tests
