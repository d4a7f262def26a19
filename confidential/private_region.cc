// SPDX-License-Identifier: Apache-2.0
#include "cloister/confidential/private_region.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"

namespace cloister::confidential {
namespace {

using memory::GuestAddress;
using memory::GuestRange;
using memory::kPageSize;

constexpr uint64_t kPagesPerLook = 4096;

// cachestat(2), which bookworm's headers lack (number 451, Linux 6.5).
struct CachestatRange {
  uint64_t offset;
  uint64_t length;
};
struct CachestatResult {
  uint64_t cached, dirty, writeback, evicted, recently_evicted;
};

absl::StatusOr<uint64_t> CachedPages(int fd, uint64_t offset, uint64_t size) {
  CachestatRange range = {offset, size};
  CachestatResult result = {};
  if (::syscall(451, fd, &range, &result, 0) < 0) {
    return base::ErrnoStatus(errno, "cachestat of a guest_memfd");
  }
  return result.cached;
}

// Joins backed parts that touch before they reach the visitor.
class Joiner {
 public:
  explicit Joiner(absl::FunctionRef<void(const GuestRange&)> visit)
      : visit_(visit) {}
  ~Joiner() { Flush(); }

  void Add(uint64_t start, uint64_t size) {
    if (size == 0) return;
    if (size_ != 0 && start_ + size_ == start) {
      size_ += size;
      return;
    }
    Flush();
    start_ = start;
    size_ = size;
  }

 private:
  void Flush() {
    if (size_ == 0) return;
    visit_(*GuestRange::Create(GuestAddress(start_), size_));
    size_ = 0;
  }

  absl::FunctionRef<void(const GuestRange&)> visit_;
  uint64_t start_ = 0;
  uint64_t size_ = 0;
};

// Halves [offset, offset + size) of the file until each part is wholly cached
// or not at all.
absl::Status Bisect(int fd, uint64_t offset, uint64_t size, uint64_t base,
                    Joiner& joiner) {
  ASSIGN_OR_RETURN(uint64_t cached, CachedPages(fd, offset, size));
  const uint64_t pages = size / kPageSize;
  if (cached == 0) return absl::OkStatus();
  if (cached >= pages) {
    joiner.Add(base + offset, size);
    return absl::OkStatus();
  }
  const uint64_t half = (pages / 2) * kPageSize;
  RETURN_IF_ERROR(Bisect(fd, offset, half, base, joiner));
  return Bisect(fd, offset + half, size - half, base, joiner);
}

}  // namespace

absl::StatusOr<std::unique_ptr<PrivateRegion>> PrivateRegion::Create(
    const kvm::Vm& vm, const GuestRange& range) {
  kvm::GuestMemfdFlags flags;
  flags.mmap = vm.SupportedGuestMemfdFlags().mmap;
  ASSIGN_OR_RETURN(kvm::GuestMemfd file,
                   vm.CreateGuestMemfd(range.size(), flags));
  std::unique_ptr<PrivateRegion> region(
      new PrivateRegion(range, std::move(file)));
  RETURN_IF_ERROR(region->Reserve());
  return region;
}

PrivateRegion::~PrivateRegion() {
  if (window_ != nullptr) ::munmap(window_, range_.size());
  if (reserved_ != nullptr) ::munmap(reserved_, range_.size());
}

absl::Status PrivateRegion::Reserve() {
  void* reserved = ::mmap(nullptr, range_.size(), PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) {
    return base::ErrnoStatus(
        errno, absl::StrCat("reserve ", range_.size(),
                            " bytes of address space for private memory"));
  }
  reserved_ = reserved;
  if (!mappable()) return absl::OkStatus();
  void* window =
      ::mmap(nullptr, range_.size(), PROT_READ, MAP_SHARED, file_.fd(), 0);
  if (window == MAP_FAILED) {
    return base::ErrnoStatus(errno, "map a guest_memfd to look at its pages");
  }
  window_ = window;
  if (::madvise(window_, range_.size(), MADV_DONTDUMP) < 0) {
    return base::ErrnoStatus(errno, "madvise MADV_DONTDUMP on a guest_memfd");
  }
  return absl::OkStatus();
}

absl::Status PrivateRegion::Punch(const GuestRange& part) const {
  if (!range_.Contains(part)) {
    return absl::OutOfRangeError(
        absl::StrCat(part.ToString(), " is not in ", range_.ToString()));
  }
  return file_.PunchHole(OffsetOf(part), part.size());
}

absl::Status PrivateRegion::ForEachBacked(
    const GuestRange& part,
    absl::FunctionRef<void(const GuestRange&)> visit) const {
  if (!range_.Contains(part) || !part.IsPageAligned()) {
    return absl::OutOfRangeError(
        absl::StrCat(part.ToString(), " is not pages of ", range_.ToString()));
  }
  Joiner joiner(visit);
  const uint64_t first = OffsetOf(part);
  if (!mappable()) {
    return Bisect(file_.fd(), first, part.size(), range_.start().value(),
                  joiner);
  }
  std::array<unsigned char, kPagesPerLook> resident;
  for (uint64_t done = 0; done < part.size();) {
    const uint64_t size =
        std::min(part.size() - done, kPagesPerLook * kPageSize);
    if (::mincore(static_cast<char*>(window_) + first + done, size,
                  resident.data()) < 0) {
      return base::ErrnoStatus(errno, "mincore of a guest_memfd");
    }
    for (uint64_t page = 0; page < size / kPageSize; ++page) {
      if ((resident[page] & 1) == 0) continue;
      joiner.Add(part.start().value() + done + page * kPageSize, kPageSize);
    }
    done += size;
  }
  return absl::OkStatus();
}

}  // namespace cloister::confidential
