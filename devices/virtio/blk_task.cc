// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/blk_task.h"

#include <algorithm>

#include "cloister/base/bytes.h"
#include "cloister/base/status_macros.h"

namespace cloister::devices::virtio {
namespace {

constexpr size_t kPage = 4096;

}  // namespace

void BlkTask::Become(Kind kind, uint64_t at, uint64_t size) {
  static_cast<DiskOp&>(*this) = DiskOp();
  this->kind = kind;
  file = file_.get();
  offset = at;
  length = size;
  durable = durable_;
  keep = keep_;
}

absl::StatusOr<bool> BlkTask::Begin() {
  switch (request_.type) {
    case BlkType::kRead:
    case BlkType::kWrite:
      return BeginTransfer();
    case BlkType::kFlush:
      Become(Kind::kFlush, 0, 0);
      return true;
    case BlkType::kDiscard:
    case BlkType::kWriteZeroes:
      return NextSegment();
    case BlkType::kGetId:
      break;
  }
  return false;
}

bool BlkTask::Suits(absl::Span<const struct iovec> buffers) const {
  const uint32_t alignment = file_->memory_alignment();
  if (alignment == 1) return true;
  return std::all_of(
      buffers.begin(), buffers.end(), [&](const struct iovec& buffer) {
        return base::IsAligned(reinterpret_cast<uintptr_t>(buffer.iov_base),
                               alignment) &&
               base::IsAligned(buffer.iov_len, file_->logical_block());
      });
}

absl::StatusOr<bool> BlkTask::BeginTransfer() {
  const bool read = request_.type == BlkType::kRead;
  absl::StatusOr<std::vector<struct iovec>> iovecs =
      read ? chain_->WritableIovecs(0, request_.length)
           : chain_->ReadableIovecs(kBlkHeaderSize, request_.length);
  RETURN_IF_ERROR(iovecs.status());
  if (Suits(*iovecs)) {
    Become(read ? Kind::kRead : Kind::kWrite, request_.offset, request_.length);
    buffers = *std::move(iovecs);
    return true;
  }
  bounce_.reset(static_cast<uint8_t*>(std::aligned_alloc(
      std::max<size_t>(kPage, file_->memory_alignment()), kBounceSize)));
  if (bounce_ == nullptr) {
    return absl::ResourceExhaustedError("no memory to bounce through");
  }
  return NextChunk();
}

absl::StatusOr<bool> BlkTask::NextChunk() {
  const size_t size = std::min<uint64_t>(kBounceSize, request_.length - moved_);
  if (size == 0) return false;
  const bool read = request_.type == BlkType::kRead;
  if (!read) {
    const uint64_t at = kBlkHeaderSize + moved_;
    RETURN_IF_ERROR(chain_->Read(at, absl::MakeSpan(bounce_.get(), size)));
    chain_->ReleaseReadable(at + size);
  }
  Become(read ? Kind::kRead : Kind::kWrite, request_.offset + moved_, size);
  buffers = {{bounce_.get(), size}};
  return true;
}

bool BlkTask::BeginFlush() {
  const bool changes = request_.type == BlkType::kWrite ||
                       request_.type == BlkType::kDiscard ||
                       request_.type == BlkType::kWriteZeroes;
  if (!changes || durable_) return false;
  durable_ = true;
  chain_->ReleaseReadable();
  Become(Kind::kFlush, offset, length);  // for messages
  return true;
}

bool BlkTask::NextSegment() {
  if (next_segment_ == segments_.size()) return false;
  const BlkSegment& segment = segments_[next_segment_++];
  Become(
      request_.type == BlkType::kDiscard ? Kind::kDiscard : Kind::kWriteZeroes,
      segment.offset, segment.length);
  unmap = segment.unmap;
  return true;
}

absl::StatusOr<bool> BlkTask::Continue() {
  if (kind == Kind::kFlush) return false;
  if (bounce_ != nullptr) {
    if (request_.type == BlkType::kRead) {
      RETURN_IF_ERROR(
          chain_->Write(moved_, absl::MakeConstSpan(bounce_.get(), length)));
    }
    moved_ += length;
    return NextChunk();
  }
  return NextSegment();
}

}  // namespace cloister::devices::virtio
