// SPDX-License-Identifier: Apache-2.0
#ifndef CLOISTER_DEVICES_VIRTIO_DISK_OP_H_
#define CLOISTER_DEVICES_VIRTIO_DISK_OP_H_

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "absl/functional/function_ref.h"
#include "cloister/devices/virtio/disk_file.h"

namespace cloister::devices::virtio {

// Bytes that one attempt at a transfer moves at most: what has to be waited for
// before a transfer that nobody wants any more ends. A multiple of any disk's
// blocks.
inline constexpr uint64_t kDiskAttempt = 4 << 20;

// One operation on a disk file. Plain data: the submitter fills the first part,
// and keeps this, the file and the buffers until the engine says it is done.
struct DiskOp {
  enum class Kind { kRead, kWrite, kFlush, kDiscard, kWriteZeroes };

  Kind kind = Kind::kRead;
  DiskFile* file = nullptr;
  uint64_t offset = 0;
  uint64_t length = 0;
  // kRead, kWrite: buffers of `length` bytes in all. The engine consumes them.
  std::vector<struct iovec> buffers;
  // What changes the file is durable before it is done.
  bool durable = false;
  bool unmap = false;  // kWriteZeroes: the storage may go
  // Done to its end even if the engine is told to give up, or ends.
  bool keep = false;

  // The engine's.
  size_t next_buffer = 0;
  uint64_t transferred = 0;
  int idle_rounds = 0;
  int early_error = 0;
  struct iovec part = {};  // of a buffer of more than kDiskAttempt
  uint64_t cancels = 0;    // the engine's count of them at Submit
};

// Discards and zeroes: the host may take its time over them.
inline bool IsSlow(DiskOp::Kind kind) {
  return kind == DiskOp::Kind::kDiscard || kind == DiskOp::Kind::kWriteZeroes;
}

// Whether a cancel, of which the engine counts `cancels`, came after Submit.
inline bool IsCancelled(const DiskOp& op, uint64_t cancels) {
  return !op.keep && op.cancels != cancels;
}
// Takes out of `waiting`, of which none has begun, what a cancel gives up.
std::vector<DiskOp*> TakeCancelled(std::deque<DiskOp*>& waiting);

// What became of one attempt at a transfer.
struct DiskProgress {
  bool done = false;
  int error = 0;  // if done
};

// The rest of a transfer's buffers, as much as one attempt takes: whole ones,
// or a part of a single one. Valid until the next call for `op`.
struct DiskBuffers {
  const struct iovec* data = nullptr;
  int count = 0;
};
DiskBuffers RemainingBuffers(DiskOp& op);

// What an operation that came to `error` is answered with. Flushes and durable
// writes are as DiskFile::FinishFlush sees them, the rest as it is.
int FinishOp(const DiskOp& op, int error);

// Accounts for `result` of preadv2(2) or pwritev2(2), negative errno in the
// manner of io_uring. Transfers that moved less than asked go on; interrupted
// ones are tried again; the end of the file is EIO, for the range was inside
// the disk: somebody cut the file short. A transfer that makes no progress for
// 1000 attempts ends with EIO. The end of a durable write is FinishOp's.
DiskProgress AdvanceTransfer(DiskOp& op, int64_t result);

// Does all of `op` on the calling thread; 0 or an errno.
int RunBlocking(DiskOp& op);
// As above, but a transfer that takes several attempts ends with ECANCELED once
// `give_up`, asked between two of them, says so.
int RunBlocking(DiskOp& op, absl::FunctionRef<bool()> give_up);

// Does all of a read or write of a file on the calling thread if that is as
// good as a copy: a write, and a read of what the host has in its page cache. 0
// or an errno; nullopt, with nothing done, if a read would have to wait for the
// disk. File systems that cannot tell (tmpfs, but NFS as well) are not asked.
std::optional<int> RunFromCache(DiskOp& op);

}  // namespace cloister::devices::virtio

#endif  // CLOISTER_DEVICES_VIRTIO_DISK_OP_H_
