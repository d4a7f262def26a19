// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/disk_op.h"

#include <limits.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

namespace cloister::devices::virtio {
namespace {

constexpr int kMaxIdleRounds = 1000;

int Transfer(DiskOp& op, absl::FunctionRef<bool()> give_up) {
  for (;;) {
    const DiskBuffers buffers = RemainingBuffers(op);
    const off_t at = op.offset + op.transferred;
    const ssize_t moved =
        op.kind == DiskOp::Kind::kRead
            ? preadv2(op.file->fd(), buffers.data, buffers.count, at, 0)
            : pwritev2(op.file->fd(), buffers.data, buffers.count, at,
                       op.durable ? RWF_DSYNC : 0);
    const DiskProgress progress =
        AdvanceTransfer(op, moved < 0 ? -errno : moved);
    if (progress.done) return progress.error;
    if (give_up()) return ECANCELED;
  }
}

int ThenFlush(DiskOp& op, int error) {
  return error == 0 && op.durable ? op.file->Flush() : error;
}

}  // namespace

std::vector<DiskOp*> TakeCancelled(std::deque<DiskOp*>& waiting) {
  const auto first =
      std::stable_partition(waiting.begin(), waiting.end(),
                            [](const DiskOp* op) { return op->keep; });
  std::vector<DiskOp*> cancelled(first, waiting.end());
  waiting.erase(first, waiting.end());
  return cancelled;
}

DiskBuffers RemainingBuffers(DiskOp& op) {
  const struct iovec* first = op.buffers.data() + op.next_buffer;
  const size_t left =
      std::min<size_t>(op.buffers.size() - op.next_buffer, IOV_MAX);
  size_t count = 0;
  // O_DIRECT is particular about where buffers begin and end: whole ones.
  for (uint64_t size = 0; count < left; ++count) {
    size += first[count].iov_len;
    if (size > kDiskAttempt) break;
  }
  if (count > 0 || left == 0) return {first, static_cast<int>(count)};
  op.part = {first->iov_base, kDiskAttempt};
  return {&op.part, 1};
}

int FinishOp(const DiskOp& op, int error) {
  const bool synced = op.kind == DiskOp::Kind::kFlush ||
                      (op.kind == DiskOp::Kind::kWrite && op.durable);
  return synced ? op.file->FinishFlush(error) : error;
}

DiskProgress AdvanceTransfer(DiskOp& op, int64_t result) {
  if (result == -EINTR || result == -EAGAIN) {
    if (++op.idle_rounds < kMaxIdleRounds) return {};
    return {true, EIO};
  }
  if (result < 0) return {true, FinishOp(op, static_cast<int>(-result))};
  uint64_t moved = result;
  // More than was asked for: no kernel does that, and nothing good follows.
  if (moved > op.length - op.transferred) return {true, EIO};
  if (moved == 0 && op.transferred < op.length) return {true, EIO};
  op.idle_rounds = 0;
  op.transferred += moved;
  while (moved > 0) {
    struct iovec& buffer = op.buffers[op.next_buffer];
    const size_t part = std::min<uint64_t>(moved, buffer.iov_len);
    buffer.iov_base = static_cast<uint8_t*>(buffer.iov_base) + part;
    buffer.iov_len -= part;
    moved -= part;
    if (buffer.iov_len == 0) ++op.next_buffer;
  }
  if (op.transferred < op.length) return {};
  return {true, FinishOp(op, 0)};
}

int RunBlocking(DiskOp& op) {
  return RunBlocking(op, [] { return false; });
}

int RunBlocking(DiskOp& op, absl::FunctionRef<bool()> give_up) {
  switch (op.kind) {
    case DiskOp::Kind::kRead:
      return Transfer(op, give_up);
    case DiskOp::Kind::kWrite: {
      const int missing = op.file->CheckPresent(op.offset, op.length);
      return missing != 0 ? missing : Transfer(op, give_up);
    }
    case DiskOp::Kind::kFlush:
      return op.file->Flush();
    case DiskOp::Kind::kDiscard:
      return ThenFlush(op, op.file->Discard(op.offset, op.length));
    case DiskOp::Kind::kWriteZeroes:
      return ThenFlush(op,
                       op.file->WriteZeroes(op.offset, op.length, op.unmap));
  }
  return EINVAL;
}

std::optional<int> RunFromCache(DiskOp& op) {
  if (op.kind != DiskOp::Kind::kRead) return RunBlocking(op);
  const DiskBuffers buffers = RemainingBuffers(op);
  const off_t at = op.offset + op.transferred;
  const ssize_t moved =
      preadv2(op.file->fd(), buffers.data, buffers.count, at, RWF_NOWAIT);
  if (moved < 0 && errno == EOPNOTSUPP) return RunBlocking(op);
  // A part of it is read again: nothing of it was accounted for.
  if (moved < 0 || static_cast<uint64_t>(moved) < op.length - op.transferred) {
    return std::nullopt;
  }
  return AdvanceTransfer(op, moved).error;
}

}  // namespace cloister::devices::virtio
