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
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/unique_fd.h"

namespace cloister::tests {
namespace {

// How often `needle` is in `bytes`. Most memory is zeroes, over which memchr is
// many times as fast as memmem: it looks for a byte that is none.
uint64_t Count(absl::string_view bytes, absl::string_view needle) {
  const size_t sure =
      std::min(needle.find_first_not_of('\0'), needle.size() - 1);
  uint64_t found = 0;
  for (size_t at = 0; needle.size() <= bytes.size() - at; ++at) {
    const size_t last = bytes.size() - needle.size();
    const void* hit =
        std::memchr(bytes.data() + at + sure, needle[sure], last - at + 1);
    if (hit == nullptr) break;
    at = static_cast<size_t>(static_cast<const char*>(hit) - bytes.data()) -
         sure;
    found += bytes.substr(at, needle.size()) == needle ? 1 : 0;
  }
  return found;
}

// A range of bytes: of a process's addresses, or of a file.
struct Range {
  uint64_t start = 0;
  uint64_t end = 0;
};

// One line of /proc/PID/maps.
struct Mapping {
  Range addresses;
  uint64_t offset = 0;  // in its file
  bool is_private = false;
  bool has_file = false;
  bool is_memfd = false;
  bool is_guest_memory = false;
};

bool ParseMapping(const std::string& line, Mapping* mapping) {
  unsigned long start = 0, end = 0, offset = 0, inode = 0;
  char rights[5] = "";
  if (std::sscanf(line.c_str(), "%lx-%lx %4s %lx %*s %lu", &start, &end, rights,
                  &offset, &inode) != 5) {
    return false;
  }
  *mapping = {
      .addresses = {start, end},
      .offset = offset,
      .is_private = rights[3] == 'p',
      .has_file = inode != 0,
      .is_memfd = absl::StrContains(line, " /memfd:"),
      .is_guest_memory = absl::StrContains(line, "cloister-guest-shared")};
  return !absl::StrContains(line, "[vvar") &&
         !absl::StrContains(line, "[vsyscall]");
}

// Looks for one needle in one process.
class Scanner {
 public:
  Scanner(pid_t pid, const Secret& needle)
      : process_(absl::StrCat("/proc/", pid, "/")),
        needle_(reinterpret_cast<const char*>(needle.data()), sizeof(needle)) {}

  absl::StatusOr<SecretScan> Run() {
    ASSIGN_OR_RETURN(memory_, Open("mem"));
    ASSIGN_OR_RETURN(pagemap_, Open("pagemap"));
    std::ifstream maps(process_ + "maps");
    std::string line;
    while (std::getline(maps, line)) {
      Mapping mapping;
      if (!ParseMapping(line, &mapping)) continue;
      if (mapping.is_memfd && !mapping.is_private) {
        RETURN_IF_ERROR(ScanMemfd(mapping));
      } else if (mapping.is_private && !mapping.has_file) {
        ScanAnonymous(mapping.addresses);
      } else {
        ScanRange(memory_.get(), mapping.addresses, mapping.is_guest_memory);
      }
    }
    return scan_;
  }

 private:
  absl::StatusOr<base::UniqueFd> Open(const std::string& name) const {
    const std::string path = process_ + name;
    base::UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (!file.valid()) return absl::ErrnoToStatus(errno, path);
    return file;
  }

  // The file itself: reading through the mapping would fill its holes.
  absl::Status ScanMemfd(const Mapping& mapping) {
    const Range& at = mapping.addresses;
    ASSIGN_OR_RETURN(base::UniqueFd file,
                     Open(absl::StrCat("map_files/", absl::Hex(at.start), "-",
                                       absl::Hex(at.end))));
    const uint64_t end = mapping.offset + (at.end - at.start);
    for (uint64_t next = mapping.offset; next < end;) {
      const off_t data =
          ::lseek(file.get(), static_cast<off_t>(next), SEEK_DATA);
      if (data < 0 && errno != ENXIO)
        return absl::ErrnoToStatus(errno, "memfd");
      const uint64_t begin =
          data < 0 ? end : std::min(end, static_cast<uint64_t>(data));
      Add(begin - next, mapping.is_guest_memory);
      if (begin == end) break;
      const off_t hole = ::lseek(file.get(), data, SEEK_HOLE);
      next = hole < 0 ? end : std::min(end, static_cast<uint64_t>(hole));
      ScanRange(file.get(), {begin, next}, mapping.is_guest_memory);
    }
    return absl::OkStatus();
  }

  // What was never written is not there to be read: most of a stack or an
  // arena.
  void ScanAnonymous(Range range) {
    std::vector<uint64_t> entries(1024);
    while (range.start < range.end) {
      const uint64_t want =
          std::min<uint64_t>(entries.size(), (range.end - range.start) / kPage);
      const ssize_t got =
          ::pread(pagemap_.get(), entries.data(), want * sizeof(uint64_t),
                  static_cast<off_t>(range.start / kPage * sizeof(uint64_t)));
      // Without an answer, all of it.
      const uint64_t known =
          got <= 0 ? 0 : static_cast<uint64_t>(got) / sizeof(uint64_t);
      if (known == 0) return ScanRange(memory_.get(), range, false);
      for (uint64_t i = 0; i < known;) {
        const bool is_there = IsThere(entries[i]);
        uint64_t end = i + 1;
        while (end < known && IsThere(entries[end]) == is_there) ++end;
        const Range run = {range.start + i * kPage, range.start + end * kPage};
        if (is_there) {
          ScanRange(memory_.get(), run, false);
        } else {
          Add(run.end - run.start, false);
        }
        i = end;
      }
      range.start += known * kPage;
    }
  }
  // In memory or swapped out (Documentation/admin-guide/mm/pagemap.rst).
  static bool IsThere(uint64_t entry) { return entry >> 62 != 0; }

  // Reads a piece at a time.
  void ScanRange(int file, Range range, bool is_guest_memory) {
    constexpr uint64_t kPiece = 1 << 20;
    const uint64_t overlap = needle_.size() - 1;
    bytes_.resize(kPiece + overlap);
    uint64_t kept = 0;  // bytes of the piece before
    for (uint64_t at = range.start; at < range.end;) {
      const uint64_t want = std::min(kPiece, range.end - at);
      const ssize_t got =
          ::pread(file, bytes_.data() + kept, want, static_cast<off_t>(at));
      if (got <= 0) {
        kept = 0;
        at += kPage;
        continue;
      }
      const uint64_t total = kept + static_cast<uint64_t>(got);
      const uint64_t found =
          Count(absl::string_view(bytes_.data(), total), needle_);
      scan_.found += found;
      scan_.found_in_guest_memory += is_guest_memory ? found : 0;
      Add(static_cast<uint64_t>(got), is_guest_memory);
      kept = std::min(overlap, total);
      std::memmove(bytes_.data(), bytes_.data() + total - kept, kept);
      at += static_cast<uint64_t>(got);
    }
  }

  void Add(uint64_t size, bool is_guest_memory) {
    scan_.read_bytes += size;
    scan_.guest_bytes += is_guest_memory ? size : 0;
  }

  static constexpr uint64_t kPage = 4096;

  const std::string process_;
  const absl::string_view needle_;
  base::UniqueFd memory_, pagemap_;
  std::vector<char> bytes_;
  SecretScan scan_;
};

}  // namespace

absl::StatusOr<SecretScan> ScanProcess(pid_t pid, const Secret& needle) {
  return Scanner(pid, needle).Run();
}

}  // namespace cloister::tests
