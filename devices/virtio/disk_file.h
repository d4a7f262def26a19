// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_DISK_FILE_H_
#define CLOISTER_DEVICES_VIRTIO_DISK_FILE_H_

#include <sys/stat.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "cloister/base/unique_fd.h"

namespace cloister::devices::virtio {

struct DiskFileOptions {
  std::string path;
  bool read_only = false;
  // O_DIRECT: the host's page cache is bypassed.
  bool direct = false;

  bool operator==(const DiskFileOptions&) const = default;
};

// A raw image, in a file or on a block device, that backs a guest's disk.
//
// While it is open it is locked, so that no two writers, nor a writer and a
// reader, share it: files by open-file-description lock and flock(2), block
// devices by open-file-description lock and, for writing, an exclusive claim.
// Thread-safe. The methods that do I/O block, and return 0 or an errno.
class DiskFile {
 public:
  // One line that names the file and what is wrong with it: missing, not
  // readable or writable, no file or block device, empty or not whole sectors,
  // locked (Unavailable), an image of another format (InvalidArgument, with the
  // command that converts it), O_DIRECT where the file system has none.
  static absl::StatusOr<std::shared_ptr<DiskFile>> Open(
      const DiskFileOptions& options);
  DiskFile(const DiskFile&) = delete;
  DiskFile& operator=(const DiskFile&) = delete;

  const DiskFileOptions& options() const { return options_; }
  int fd() const { return fd_.get(); }
  bool is_block_device() const { return S_ISBLK(identity_.st_mode); }
  // A file that is read and written through the host's page cache.
  bool is_cached_file() const { return !is_block_device() && !options_.direct; }

  // Bytes, as of Open or the last RefreshSize.
  uint64_t size() const { return size_.load(std::memory_order_relaxed); }
  // Asks the system; true if it changed. FailedPrecondition if the size is one
  // that Open refuses: the old one then stays.
  absl::StatusOr<bool> RefreshSize();
  // Whether `path` names the file or device that is open here.
  bool IsSameFile(const std::string& path) const;

  // What offsets and lengths must be multiples of, and what they better were;
  // powers of two from 512 on.
  uint32_t logical_block() const { return logical_block_; }
  uint32_t physical_block() const { return physical_block_; }
  // What the addresses of buffers must be multiples of; 1 without O_DIRECT.
  uint32_t memory_alignment() const { return memory_alignment_; }

  // EIO if some of the range is no longer there: somebody cut the file short.
  // Otherwise a write would make it longer again, with a hole before it.
  int CheckPresent(uint64_t offset, uint64_t length) const;

  // Gives the range's storage back; its content is undefined afterwards. A file
  // system that cannot do that is no error: this is a hint.
  int Discard(uint64_t offset, uint64_t length);
  // Makes the range read as zeros, by the cheapest means the file has; with
  // `unmap` its storage may go.
  int WriteZeroes(uint64_t offset, uint64_t length, bool unmap);
  // fdatasync(2), as FinishFlush sees it.
  int Flush();

  // The result of a flush that somebody else did, or of a write with RWF_DSYNC,
  // whose error may be that of another write before it. After a failure the
  // page cache may have dropped what it could not write, and a later fdatasync
  // says nothing of it: so every later flush of a file fails with the first
  // errno until it is opened anew. With O_DIRECT too, which a file system may
  // serve from its cache.
  int FinishFlush(int error);

 private:
  DiskFile(const DiskFileOptions& options, base::UniqueFd fd,
           const struct stat& identity)
      : options_(options), fd_(std::move(fd)), identity_(identity) {}

  absl::Status Lock() const;
  absl::Status FindAlignment();
  absl::Status FindFormat() const;
  absl::StatusOr<uint64_t> AskSize() const;
  // `what` failed with errno `error`.
  absl::Status Failure(int error, const char* what) const;
  int Allocate(int mode, uint64_t offset, uint64_t length);
  int WriteZeroBytes(uint64_t offset, uint64_t length);

  const DiskFileOptions options_;
  const base::UniqueFd fd_;
  const struct stat identity_;
  std::atomic<uint64_t> size_{0};
  uint32_t logical_block_ = 512;
  uint32_t physical_block_ = 512;
  uint32_t memory_alignment_ = 1;
  std::atomic<int> flush_error_{0};
};

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_DISK_FILE_H_
