// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/disk_file.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "cloister/base/bytes.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"
#include "cloister/devices/virtio/disk_format.h"

namespace cloister::devices::virtio {
namespace {

constexpr uint64_t kSector = 512;
constexpr uint32_t kPage = 4096;
// struct statx is older than its direct I/O fields (Linux 6.1).
constexpr unsigned kStatxDirectAlign = 0x2000;
constexpr uint32_t kLargestBlock = 1u << 20;

// What fallocate(2) says when the file cannot do what was asked.
bool CannotDo(int error) {
  return error == EOPNOTSUPP || error == ENOSYS || error == ENOTTY ||
         error == EINVAL;
}

std::string ShellQuoted(const std::string& path) {
  return absl::StrCat("'", absl::StrReplaceAll(path, {{"'", "'\\''"}}), "'");
}

int Errno(int result) { return result < 0 ? errno : 0; }

bool IsBlockSize(uint64_t size) {
  return size >= kSector && size <= kLargestBlock && base::IsPowerOfTwo(size);
}

// Reads `size` bytes at `offset` through a buffer that suits O_DIRECT; fewer at
// the end of the file.
absl::StatusOr<std::vector<uint8_t>> ReadAt(int fd, uint64_t offset,
                                            size_t size) {
  const uint64_t start = base::AlignDown(offset, kPage);
  const size_t whole = base::AlignUp(offset + size, kPage) - start;
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<uint8_t, Free> buffer(
      static_cast<uint8_t*>(std::aligned_alloc(kPage, whole)));
  if (buffer == nullptr) return absl::ResourceExhaustedError("no memory");
  ssize_t got =
      base::RetryOnEintr([&] { return pread(fd, buffer.get(), whole, start); });
  if (got < 0) {
    return base::ErrnoStatus(errno, absl::StrCat("pread at ", start));
  }
  const size_t skip = offset - start;
  if (static_cast<size_t>(got) <= skip) return std::vector<uint8_t>();
  const size_t have = std::min<size_t>(got - skip, size);
  return std::vector<uint8_t>(buffer.get() + skip, buffer.get() + skip + have);
}

}  // namespace

absl::StatusOr<std::shared_ptr<DiskFile>> DiskFile::Open(
    const DiskFileOptions& options) {
  const std::string what = absl::StrCat("disk ", options.path);
  // Asked first: opening a device or a pipe may already do something.
  struct stat found;
  if (stat(options.path.c_str(), &found) != 0) {
    return base::ErrnoStatus(errno, what);
  }
  if (!S_ISREG(found.st_mode) && !S_ISBLK(found.st_mode)) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": neither a file nor a block device"));
  }
  if (!options.read_only && S_ISREG(found.st_mode) &&
      (found.st_mode & 0222) == 0) {
    return absl::PermissionDeniedError(
        absl::StrFormat("%s: is read-only (mode %04o): attach it with ',ro'",
                        what, found.st_mode & 07777));
  }
  int flags = O_CLOEXEC | O_NOCTTY | O_NONBLOCK |
              (options.read_only ? O_RDONLY : O_RDWR) |
              (options.direct ? O_DIRECT : 0);
  // Fails with EBUSY if the device is mounted, or claimed by somebody else.
  if (S_ISBLK(found.st_mode) && !options.read_only) flags |= O_EXCL;
  base::UniqueFd fd(
      base::RetryOnEintr([&] { return open(options.path.c_str(), flags); }));
  if (!fd.valid()) {
    const int error = errno;
    const char* hint = "";
    if (error == EROFS || error == EACCES || error == EPERM) {
      hint = options.read_only ? "" : " for writing (',ro' only reads)";
    }
    if (error == EINVAL && options.direct) hint = " with O_DIRECT";
    return base::ErrnoStatus(error, absl::StrCat(what, ": open", hint));
  }
  struct stat opened;
  if (fstat(fd.get(), &opened) != 0) return base::ErrnoStatus(errno, what);
  if (opened.st_dev != found.st_dev || opened.st_ino != found.st_ino) {
    return absl::UnavailableError(
        absl::StrCat(what, ": was replaced while it was being opened"));
  }
  // O_NONBLOCK was for the case of a pipe; to io_uring it would mean EAGAIN.
  if (fcntl(fd.get(), F_SETFL, flags & O_DIRECT) != 0) {
    return base::ErrnoStatus(errno, absl::StrCat(what, ": fcntl(F_SETFL)"));
  }
  std::shared_ptr<DiskFile> file(new DiskFile(options, std::move(fd), opened));
  RETURN_IF_ERROR(file->Lock());
  ASSIGN_OR_RETURN(uint64_t size, file->AskSize());
  file->size_.store(size);
  RETURN_IF_ERROR(file->FindAlignment());
  RETURN_IF_ERROR(file->FindFormat());
  return file;
}

absl::Status DiskFile::Failure(int error, const char* what) const {
  return base::ErrnoStatus(error,
                           absl::StrCat("disk ", options_.path, ": ", what));
}

absl::Status DiskFile::Lock() const {
  const absl::Status locked = absl::UnavailableError(absl::StrCat(
      "disk ", options_.path,
      options_.read_only ? ": is locked by a program that writes to it"
                         : ": is locked by another program"));
  struct flock lock = {};
  lock.l_type = options_.read_only ? F_RDLCK : F_WRLCK;
  lock.l_whence = SEEK_SET;
  if (fcntl(fd(), F_OFD_SETLK, &lock) != 0) {
    if (errno == EAGAIN || errno == EACCES) return locked;
    // File systems without locks (some network ones) have none to respect.
    if (errno != ENOLCK && errno != EOPNOTSUPP && errno != ENOSYS) {
      return Failure(errno, "fcntl(F_OFD_SETLK)");
    }
  }
  // udev takes flock(2) on block devices for moments at a time.
  if (is_block_device()) return absl::OkStatus();
  if (flock(fd(), (options_.read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return locked;
    if (errno != ENOLCK && errno != EOPNOTSUPP && errno != ENOSYS) {
      return Failure(errno, "flock");
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> DiskFile::AskSize() const {
  uint64_t size = 0;
  if (is_block_device()) {
    if (ioctl(fd(), BLKGETSIZE64, &size) != 0) {
      return Failure(errno, "ioctl(BLKGETSIZE64)");
    }
  } else {
    struct stat now;
    if (fstat(fd(), &now) != 0) return Failure(errno, "fstat");
    size = now.st_size;
  }
  if (size == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("disk ", options_.path, ": is empty"));
  }
  if (size % kSector != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("disk ", options_.path, ": its size of ", size,
                     " bytes is no multiple of 512"));
  }
  return size;
}

absl::StatusOr<bool> DiskFile::RefreshSize() {
  ASSIGN_OR_RETURN(uint64_t size, AskSize());
  if (size % logical_block_ != 0) {
    return absl::FailedPreconditionError(absl::StrCat(
        "disk ", options_.path, ": its new size of ", size,
        " bytes is no multiple of its block size ", logical_block_));
  }
  return size_.exchange(size) != size;
}

bool DiskFile::IsSameFile(const std::string& path) const {
  struct stat other;
  if (stat(path.c_str(), &other) != 0) return false;
  if (is_block_device()) {
    return S_ISBLK(other.st_mode) && other.st_rdev == identity_.st_rdev;
  }
  return other.st_dev == identity_.st_dev && other.st_ino == identity_.st_ino;
}

absl::Status DiskFile::FindAlignment() {
  uint32_t logical = kSector;
  uint32_t physical = kSector;
  if (is_block_device()) {
    int value = 0;
    if (ioctl(fd(), BLKSSZGET, &value) != 0) {
      return Failure(errno, "ioctl(BLKSSZGET)");
    }
    logical = static_cast<uint32_t>(value);
    unsigned bytes = 0;
    physical = ioctl(fd(), BLKPBSZGET, &bytes) == 0 ? bytes : logical;
  } else {
    physical = static_cast<uint32_t>(identity_.st_blksize);
  }
  if (options_.direct) {
    memory_alignment_ = kPage;
    struct statx direct = {};
    if (statx(fd(), "", AT_EMPTY_PATH, kStatxDirectAlign, &direct) == 0 &&
        (direct.stx_mask & kStatxDirectAlign) != 0) {
      if (direct.stx_dio_offset_align == 0) {
        return Failure(EOPNOTSUPP, "O_DIRECT");
      }
      memory_alignment_ = direct.stx_dio_mem_align;
      logical = std::max(logical, direct.stx_dio_offset_align);
    } else if (!is_block_device()) {
      // Older kernels do not say; a page is enough for every file system.
      logical = kPage;
    }
  }
  if (!IsBlockSize(logical) || !base::IsPowerOfTwo(memory_alignment_)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "disk ", options_.path, ": blocks of ", logical, " bytes in memory at ",
        memory_alignment_, " are not supported"));
  }
  if (size() % logical != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("disk ", options_.path, ": its size of ", size(),
                     " bytes is no multiple of ", logical,
                     options_.direct ? ", which O_DIRECT needs here" : ""));
  }
  logical_block_ = logical;
  physical_block_ =
      IsBlockSize(physical) ? std::max(physical, logical) : logical;
  return absl::OkStatus();
}

absl::Status DiskFile::FindFormat() const {
  absl::StatusOr<std::vector<uint8_t>> head = ReadAt(fd(), 0, kDiskFormatHead);
  const uint64_t tail_at = size() - std::min<uint64_t>(size(), kDiskFormatTail);
  absl::StatusOr<std::vector<uint8_t>> tail =
      ReadAt(fd(), tail_at, kDiskFormatTail);
  // What cannot be read now the guest will be told of when it tries.
  std::optional<absl::string_view> format =
      DetectDiskFormat(head.ok() ? *head : std::vector<uint8_t>(),
                       tail.ok() ? *tail : std::vector<uint8_t>());
  if (!format.has_value()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "disk ", options_.path, ": is a ", *format,
      " image, only raw ones work; convert it: qemu-img convert -f ", *format,
      " -O raw ", ShellQuoted(options_.path), " ",
      ShellQuoted(absl::StrCat(options_.path, ".raw"))));
}

int DiskFile::CheckPresent(uint64_t offset, uint64_t length) const {
  if (is_block_device()) return 0;
  struct stat now;
  if (fstat(fd(), &now) != 0) return errno;
  const uint64_t size = now.st_size;
  return length <= size && offset <= size - length ? 0 : EIO;
}

int DiskFile::Allocate(int mode, uint64_t offset, uint64_t length) {
  return Errno(base::RetryOnEintr([&] {
    return fallocate(fd(), mode | FALLOC_FL_KEEP_SIZE, offset, length);
  }));
}

int DiskFile::Discard(uint64_t offset, uint64_t length) {
  if (int error = CheckPresent(offset, length); error != 0) return error;
  int error = 0;
  if (is_block_device()) {
    uint64_t range[2] = {offset, length};
    error = Errno(
        base::RetryOnEintr([&] { return ioctl(fd(), BLKDISCARD, range); }));
  } else {
    error = Allocate(FALLOC_FL_PUNCH_HOLE, offset, length);
  }
  return CannotDo(error) ? 0 : error;
}

int DiskFile::WriteZeroes(uint64_t offset, uint64_t length, bool unmap) {
  if (int error = CheckPresent(offset, length); error != 0) return error;
  if (unmap) {
    int error = Allocate(FALLOC_FL_PUNCH_HOLE, offset, length);
    if (!CannotDo(error)) return error;
  }
  int error = Allocate(FALLOC_FL_ZERO_RANGE, offset, length);
  if (!CannotDo(error)) return error;
  if (is_block_device()) {
    uint64_t range[2] = {offset, length};
    error = Errno(
        base::RetryOnEintr([&] { return ioctl(fd(), BLKZEROOUT, range); }));
    if (!CannotDo(error)) return error;
  }
  return WriteZeroBytes(offset, length);
}

int DiskFile::WriteZeroBytes(uint64_t offset, uint64_t length) {
  alignas(kPage) static const std::array<uint8_t, 64 * 1024> kZeroes = {};
  while (length > 0) {
    const size_t chunk = std::min<uint64_t>(length, kZeroes.size());
    const ssize_t written = base::RetryOnEintr(
        [&] { return pwrite(fd(), kZeroes.data(), chunk, offset); });
    if (written < 0) return errno;
    if (written == 0) return EIO;
    offset += written;
    length -= written;
  }
  return 0;
}

int DiskFile::Flush() {
  return FinishFlush(
      Errno(base::RetryOnEintr([&] { return fdatasync(fd()); })));
}

int DiskFile::FinishFlush(int error) {
  int first = 0;
  if (error != 0) flush_error_.compare_exchange_strong(first, error);
  return flush_error_.load();
}

}  // namespace cloister::devices::virtio
