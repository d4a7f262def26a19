// SPDX-License-Identifier: Apache-2.0
#include "cloister/memory/guest_memory_mapping.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"
#include "cloister/memory/guest_address.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U  // linux/memfd.h, since 6.3.
#endif
#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)  // linux/memfd.h: log2 of the size << 26.
#endif
#ifndef MFD_HUGE_1GB
#define MFD_HUGE_1GB (30U << 26)
#endif

namespace cloister::memory {
namespace {

using base::ErrnoStatus;

constexpr uint64_t k2M = uint64_t{2} << 20;
constexpr uint64_t k1G = uint64_t{1} << 30;

bool IsHugetlb(HugePages huge_pages) {
  return huge_pages == HugePages::kHugetlb2M ||
         huge_pages == HugePages::kHugetlb1G;
}

// What the mapping's size must be a multiple of.
uint64_t Granule(HugePages huge_pages) {
  if (huge_pages == HugePages::kHugetlb1G) return k1G;
  return huge_pages == HugePages::kHugetlb2M ? k2M : kPageSize;
}

const char* GranuleName(HugePages huge_pages) {
  if (huge_pages == HugePages::kHugetlb1G) return "1 GiB";
  return huge_pages == HugePages::kHugetlb2M ? "2 MiB" : "4 KiB";
}

absl::Status CheckSize(absl::string_view name, uint64_t size,
                       HugePages huge_pages) {
  const uint64_t granule = Granule(huge_pages);
  if (size == 0 || size % granule != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("memory '", name, "': its size, ", size,
                     " bytes, is not a multiple of ", GranuleName(huge_pages),
                     " above zero"));
  }
  // Leaves room for alignment, and for offsets to be off_t.
  if (size > uint64_t{1} << 62) {
    return absl::InvalidArgumentError(
        absl::StrCat("memory '", name, "': ", size, " bytes is too large"));
  }
  return absl::OkStatus();
}

absl::StatusOr<base::UniqueFd> NewMemfd(const std::string& name,
                                        HugePages huge_pages) {
  unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  if (huge_pages == HugePages::kHugetlb2M) flags |= MFD_HUGETLB | MFD_HUGE_2MB;
  if (huge_pages == HugePages::kHugetlb1G) flags |= MFD_HUGETLB | MFD_HUGE_1GB;
  base::UniqueFd fd(::memfd_create(name.c_str(), flags | MFD_NOEXEC_SEAL));
  if (!fd.valid() && errno == EINVAL) {
    fd.reset(::memfd_create(name.c_str(), flags));
  }
  if (fd.valid()) return fd;
  absl::Status status =
      ErrnoStatus(errno, absl::StrCat("memfd_create '", name, "'"));
  if (!IsHugetlb(huge_pages)) return status;
  return absl::FailedPreconditionError(absl::StrCat(
      status.message(), ": this host has no ", GranuleName(huge_pages),
      " huge pages; boot it with hugepagesz=",
      huge_pages == HugePages::kHugetlb1G ? "1G" : "2M",
      " hugepages=<number>, or choose another huge-page option"));
}

// How to get enough hugetlb pages.
std::string ReserveAdvice(uint64_t size, HugePages huge_pages) {
  const uint64_t granule = Granule(huge_pages);
  return absl::StrCat("not enough free huge pages; write ", size / granule,
                      " or more to /sys/kernel/mm/hugepages/hugepages-",
                      granule >> 10,
                      "kB/nr_hugepages, or choose another huge-page option");
}

// Makes sure that the file cannot become shorter than it is, where files have
// seals (memfd). A guest_memfd has none and a fixed size.
absl::Status SealSize(int fd) {
  int seals = ::fcntl(fd, F_GET_SEALS);
  if (seals < 0) {
    if (errno == EINVAL) return absl::OkStatus();
    return ErrnoStatus(errno, "F_GET_SEALS on a memory file");
  }
  if ((seals & F_SEAL_SHRINK) != 0) return absl::OkStatus();
  if (::fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK) != 0) {
    return ErrnoStatus(errno,
                       "F_ADD_SEALS(F_SEAL_SHRINK) on a memory file; create it "
                       "with MFD_ALLOW_SEALING");
  }
  return absl::OkStatus();
}

// Appends, or lengthens the last one.
void AppendExtent(uint64_t offset, uint64_t size,
                  std::vector<MappingExtent>* extents) {
  if (!extents->empty() &&
      extents->back().offset + extents->back().size == offset) {
    extents->back().size += size;
  } else {
    extents->push_back({offset, size});
  }
}

}  // namespace

absl::StatusOr<HostMapping> HostMapping::CreateMemfd(
    absl::string_view name, uint64_t size, const MappingOptions& options) {
  RETURN_IF_ERROR(CheckSize(name, size, options.huge_pages));
  ASSIGN_OR_RETURN(base::UniqueFd fd,
                   NewMemfd(std::string(name), options.huge_pages));
  if (::ftruncate(fd.get(), static_cast<off_t>(size)) != 0) {
    return ErrnoStatus(errno, absl::StrCat("memory '", name, "': ftruncate to ",
                                           size, " bytes"));
  }
  if (::fcntl(fd.get(), F_ADD_SEALS,
              F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return ErrnoStatus(errno, absl::StrCat("memory '", name, "': F_ADD_SEALS"));
  }
  HostMapping mapping(std::move(fd), 0, size, options.huge_pages);
  mapping.seeks_data_ = !IsHugetlb(options.huge_pages);
  absl::Status status = mapping.Map(options);
  if (!status.ok()) {
    return absl::Status(
        status.code(), absl::StrCat("memory '", name, "': ", status.message()));
  }
  return mapping;
}

absl::StatusOr<HostMapping> HostMapping::MapFile(
    base::UniqueFd fd, uint64_t offset, uint64_t size,
    const MappingOptions& options) {
  RETURN_IF_ERROR(CheckSize("file", size, HugePages::kNone));
  if (IsHugetlb(options.huge_pages)) {
    return absl::InvalidArgumentError(
        "hugetlb cannot be asked for when mapping an existing file");
  }
  if (offset % kPageSize != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("memory file offset ", offset, " is not page-aligned"));
  }
  RETURN_IF_ERROR(base::SetCloseOnExec(fd.get()));
  RETURN_IF_ERROR(SealSize(fd.get()));
  struct stat file;
  if (::fstat(fd.get(), &file) != 0) {
    return ErrnoStatus(errno, "fstat of a memory file");
  }
  const auto length = static_cast<uint64_t>(file.st_size);
  if (size > length || offset > length - size) {
    return absl::InvalidArgumentError(
        absl::StrCat("memory file of ", length, " bytes is too short for ",
                     size, " bytes at offset ", offset));
  }
  struct statfs filesystem;
  if (::fstatfs(fd.get(), &filesystem) != 0) {
    return ErrnoStatus(errno, "fstatfs of a memory file");
  }
  if (filesystem.f_type == HUGETLBFS_MAGIC) {
    return absl::InvalidArgumentError(
        "an existing hugetlb file cannot be mapped: its pages may not be "
        "reserved");
  }
  HostMapping mapping(std::move(fd), offset, size, options.huge_pages);
  // Files that cannot tell holes from data answer as if they were full.
  mapping.seeks_data_ = filesystem.f_type == TMPFS_MAGIC;
  RETURN_IF_ERROR(mapping.Map(options));
  return mapping;
}

HostMapping::HostMapping(HostMapping&& other) noexcept
    : fd_(std::move(other.fd_)),
      file_offset_(other.file_offset_),
      size_(other.size_),
      huge_pages_(other.huge_pages_),
      seeks_data_(other.seeks_data_),
      base_(std::exchange(other.base_, nullptr)) {}

HostMapping& HostMapping::operator=(HostMapping&& other) noexcept {
  if (this == &other) return *this;
  Unmap();
  fd_ = std::move(other.fd_);
  file_offset_ = other.file_offset_;
  size_ = other.size_;
  huge_pages_ = other.huge_pages_;
  seeks_data_ = other.seeks_data_;
  base_ = std::exchange(other.base_, nullptr);
  return *this;
}

HostMapping::~HostMapping() { Unmap(); }

void HostMapping::Unmap() {
  if (base_ != nullptr) ::munmap(base_, size_);
  base_ = nullptr;
}

HostAddress HostMapping::host_address() const {
  return HostAddress(reinterpret_cast<uintptr_t>(base_));
}

// Maps the file; where 2 MiB pages shall be possible, at a 2 MiB boundary (the
// kernel aligns hugetlb itself).
absl::Status HostMapping::Map(const MappingOptions& options) {
  const bool align = options.huge_pages == HugePages::kTransparent;
  void* hint = nullptr;
  uint64_t reserved_size = size_ + k2M;
  uint8_t* reserved = nullptr;
  if (align) {
    void* room = ::mmap(nullptr, reserved_size, PROT_NONE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED) {
      return ErrnoStatus(errno, absl::StrCat("mmap of ", size_, " bytes"));
    }
    reserved = static_cast<uint8_t*>(room);
    hint = reserved + (k2M - reinterpret_cast<uintptr_t>(room) % k2M) % k2M;
  }
  // Pages of a memfd are not reserved: memory is committed when touched.
  // hugetlb pages must be, or a touch could fail with SIGBUS.
  const int flags = MAP_SHARED | (align ? MAP_FIXED : 0) |
                    (IsHugetlb(options.huge_pages) ? 0 : MAP_NORESERVE);
  void* base = ::mmap(hint, size_, PROT_READ | PROT_WRITE, flags, fd_.get(),
                      static_cast<off_t>(file_offset_));
  const int error = errno;
  if (align) {
    auto* start = static_cast<uint8_t*>(hint);
    uint8_t* end = start + size_;
    if (base == MAP_FAILED) end = start;
    if (start > reserved) ::munmap(reserved, start - reserved);
    if (reserved + reserved_size > end) {
      ::munmap(end, reserved + reserved_size - end);
    }
  }
  if (base == MAP_FAILED) {
    absl::Status status =
        ErrnoStatus(error, absl::StrCat("mmap of ", size_, " bytes"));
    if (!IsHugetlb(options.huge_pages) || error != ENOMEM) return status;
    return absl::ResourceExhaustedError(absl::StrCat(
        status.message(), ": ", ReserveAdvice(size_, options.huge_pages)));
  }
  base_ = static_cast<uint8_t*>(base);
  return Advise(options);
}

absl::Status HostMapping::Advise(const MappingOptions& options) {
  if (options.dont_dump && ::madvise(base_, size_, MADV_DONTDUMP) != 0) {
    return ErrnoStatus(errno, "madvise(MADV_DONTDUMP)");
  }
  // A kernel without transparent huge pages answers EINVAL: it has none to keep
  // out.
  if (options.huge_pages == HugePages::kNone &&
      ::madvise(base_, size_, MADV_NOHUGEPAGE) != 0 && errno != EINVAL) {
    return ErrnoStatus(errno, "madvise(MADV_NOHUGEPAGE)");
  }
  if (options.huge_pages == HugePages::kTransparent &&
      ::madvise(base_, size_, MADV_HUGEPAGE) != 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "madvise(MADV_HUGEPAGE): ", base::ErrnoName(errno),
        ": this host's kernel has no transparent huge pages for such memory "
        "(CONFIG_TRANSPARENT_HUGEPAGE); choose another huge-page option"));
  }
  return absl::OkStatus();
}

absl::Status HostMapping::CheckPages(const MappingExtent& extent) const {
  if (extent.offset % kPageSize != 0 || extent.size % kPageSize != 0 ||
      extent.size == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("extent of ", extent.size, " bytes at ", extent.offset,
                     " does not consist of pages"));
  }
  if (extent.size > size_ || extent.offset > size_ - extent.size) {
    return absl::OutOfRangeError(
        absl::StrCat("extent of ", extent.size, " bytes at ", extent.offset,
                     " leaves a mapping of ", size_, " bytes"));
  }
  return absl::OkStatus();
}

absl::Status HostMapping::Discard(const MappingExtent& extent) {
  RETURN_IF_ERROR(CheckPages(extent));
  if (IsHugetlb(huge_pages_)) {
    return absl::FailedPreconditionError(
        "hugetlb memory cannot be discarded: its pages would not be reserved "
        "any more");
  }
  const uint64_t offset = file_offset_ + extent.offset;
  if (base::RetryOnEintr([&] {
        return ::fallocate(
            fd_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
            static_cast<off_t>(offset), static_cast<off_t>(extent.size));
      }) != 0) {
    return ErrnoStatus(errno, absl::StrCat("fallocate(PUNCH_HOLE) of ",
                                           extent.size, " bytes at ", offset));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<MappingExtent>> HostMapping::BackedExtents(
    const MappingExtent& extent) const {
  RETURN_IF_ERROR(CheckPages(extent));
  return seeks_data_ ? SeekExtents(extent) : ResidentExtents(extent);
}

absl::StatusOr<std::vector<MappingExtent>> HostMapping::SeekExtents(
    const MappingExtent& extent) const {
  std::vector<MappingExtent> extents;
  const uint64_t end = file_offset_ + extent.offset + extent.size;
  uint64_t at = file_offset_ + extent.offset;
  while (at < end) {
    off_t data = ::lseek(fd_.get(), static_cast<off_t>(at), SEEK_DATA);
    if (data < 0 && errno == ENXIO) break;  // No data up to the end.
    if (data < 0) {
      return ErrnoStatus(errno, absl::StrCat("lseek(SEEK_DATA) from ", at));
    }
    if (static_cast<uint64_t>(data) >= end) break;
    // Every file ends with a hole, so this one exists; unless the page was
    // freed in between, which is fine: the search goes on behind it.
    off_t hole = ::lseek(fd_.get(), data, SEEK_HOLE);
    if (hole < 0) {
      return ErrnoStatus(errno, absl::StrCat("lseek(SEEK_HOLE) from ", data));
    }
    uint64_t data_end = std::min<uint64_t>(static_cast<uint64_t>(hole), end);
    if (hole > data) {
      AppendExtent(static_cast<uint64_t>(data) - file_offset_,
                   data_end - static_cast<uint64_t>(data), &extents);
    }
    at = std::max<uint64_t>(data_end, static_cast<uint64_t>(data) + kPageSize);
  }
  return extents;
}

absl::StatusOr<std::vector<MappingExtent>> HostMapping::ResidentExtents(
    const MappingExtent& extent) const {
  constexpr uint64_t kChunk = uint64_t{64} << 20;
  std::vector<MappingExtent> extents;
  std::vector<unsigned char> resident(std::min(extent.size, kChunk) /
                                      kPageSize);
  for (uint64_t done = 0; done < extent.size; done += kChunk) {
    const uint64_t start = extent.offset + done;
    const uint64_t size = std::min(extent.size - done, kChunk);
    if (::mincore(base_ + start, size, resident.data()) != 0) {
      return ErrnoStatus(
          errno, absl::StrCat("mincore of ", size, " bytes at ", start));
    }
    for (uint64_t page = 0; page < size / kPageSize; ++page) {
      if ((resident[page] & 1) == 0) continue;
      AppendExtent(start + page * kPageSize, kPageSize, &extents);
    }
  }
  return extents;
}

}  // namespace cloister::memory
