// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_MEMORY_GUEST_MEMORY_MAPPING_H_
#define CLOISTER_MEMORY_GUEST_MEMORY_MAPPING_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "cloister/base/unique_fd.h"

namespace cloister::memory {

// What backs a mapping's pages on the host.
enum class HugePages : uint8_t {
  kNone,         // 4 KiB pages only (MADV_NOHUGEPAGE).
  kTransparent,  // MADV_HUGEPAGE; the mapping is 2 MiB aligned.
  kHugetlb2M,    // Reserved 2 MiB pages (vm.nr_hugepages).
  kHugetlb1G,    // Reserved 1 GiB pages (hugepagesz=1G hugepages=N).
};

struct MappingOptions {
  HugePages huge_pages = HugePages::kNone;
  // Keep the pages out of core files (MADV_DONTDUMP).
  bool dont_dump = false;
};

// Where a mapping lies in this process: the userspace_addr of a KVM memory
// slot. Opaque: nothing but slot registration asks for the number.
class HostAddress {
 public:
  constexpr uint64_t ForKvmSlot() const { return value_; }
  constexpr bool operator==(const HostAddress&) const = default;

 private:
  friend class HostMapping;
  constexpr explicit HostAddress(uint64_t value) : value_(value) {}
  uint64_t value_;
};

// Part of a mapping, [offset, offset + size).
struct MappingExtent {
  uint64_t offset;
  uint64_t size;
  bool operator==(const MappingExtent&) const = default;
};

// One MAP_SHARED read-write mapping of a file that holds guest memory, and the
// file. Move-only; unmapped and closed when destroyed.
//
// No access through this mapping can raise SIGBUS, by construction: a memfd is
// sealed against shrinking, a given file is checked to be long enough, hugetlb
// pages are reserved when mapped and never punched, and a hole reads as zeroes.
// The one exception is for the caller to avoid: a guest_memfd page that is
// private. Map a guest_memfd only if its pages all start, and stay, shared
// (GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED, Linux 6.18).
//
// Thread-safe once created.
class HostMapping {
 public:
  // A new sealed, close-on-exec memfd of `size` bytes, a multiple of the page
  // size that `options` asks for. `name` shows in /proc/self/maps. Errors say
  // what the host lacks and how to provide it.
  static absl::StatusOr<HostMapping> CreateMemfd(absl::string_view name,
                                                 uint64_t size,
                                                 const MappingOptions& options);

  // [offset, offset + size) of an existing file, page-aligned, which must stay
  // at least that long: a guest_memfd (whose size is fixed), or a memfd (which
  // is sealed against shrinking if it was not). InvalidArgument for hugetlb
  // options and files, and for files that are too short.
  static absl::StatusOr<HostMapping> MapFile(base::UniqueFd fd, uint64_t offset,
                                             uint64_t size,
                                             const MappingOptions& options);

  HostMapping(HostMapping&& other) noexcept;
  HostMapping& operator=(HostMapping&& other) noexcept;
  ~HostMapping();

  uint64_t size() const { return size_; }
  // The file and where in it the mapping starts. Still owned here.
  int fd() const { return fd_.get(); }
  uint64_t file_offset() const { return file_offset_; }
  HugePages huge_pages() const { return huge_pages_; }
  HostAddress host_address() const;

  // Frees the pages of a page-aligned part; they read as zeroes from then on
  // (fallocate PUNCH_HOLE, also seen by every other mapping of the file).
  // FailedPrecondition on hugetlb, where a later touch could raise SIGBUS.
  absl::Status Discard(const MappingExtent& extent);

  // The parts of a page-aligned extent that hold pages, in order, maximal.
  // From the file (SEEK_DATA, so swapped pages count) where it can tell, else
  // from mincore(2): guest_memfd and hugetlb. A snapshot if others touch it.
  absl::StatusOr<std::vector<MappingExtent>> BackedExtents(
      const MappingExtent& extent) const;

 private:
  friend class GuestMemory;
  HostMapping(base::UniqueFd fd, uint64_t file_offset, uint64_t size,
              HugePages huge_pages)
      : fd_(std::move(fd)),
        file_offset_(file_offset),
        size_(size),
        huge_pages_(huge_pages) {}
  absl::Status Map(const MappingOptions& options);
  absl::Status Advise(const MappingOptions& options);
  absl::Status CheckPages(const MappingExtent& extent) const;
  absl::StatusOr<std::vector<MappingExtent>> SeekExtents(
      const MappingExtent& extent) const;
  absl::StatusOr<std::vector<MappingExtent>> ResidentExtents(
      const MappingExtent& extent) const;
  void Unmap();
  uint8_t* base() const { return base_; }

  base::UniqueFd fd_;
  uint64_t file_offset_ = 0;
  uint64_t size_ = 0;
  HugePages huge_pages_ = HugePages::kNone;
  bool seeks_data_ = false;
  uint8_t* base_ = nullptr;
};

}  // namespace cloister::memory

#endif  // CLOISTER_MEMORY_GUEST_MEMORY_MAPPING_H_
