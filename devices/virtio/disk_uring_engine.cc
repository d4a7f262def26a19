// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/disk_uring_engine.h"

#include <sys/epoll.h>
#include <sys/uio.h>

#include <cerrno>
#include <chrono>
#include <utility>

#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"
#include "cloister/base/unique_fd.h"
#include "cloister/devices/virtio/disk_thread_engine.h"

namespace cloister::devices::virtio {
namespace {

// Whether the kernel knows what this engine asks of it.
bool KnowsOperations(struct io_uring& ring) {
  struct io_uring_probe* probe = io_uring_get_probe_ring(&ring);
  if (probe == nullptr) return false;
  bool all = true;
  for (int op :
       {IORING_OP_NOP, IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC}) {
    all = all && io_uring_opcode_supported(probe, op);
  }
  io_uring_free_probe(probe);
  return all;
}

}  // namespace

absl::StatusOr<std::unique_ptr<DiskEngine>> DiskUringEngine::Create(
    base::EventLoop& loop, Client& client,
    std::function<void()> on_thread_start, Clock clock) {
  std::unique_ptr<DiskUringEngine> engine(
      new DiskUringEngine(loop, client, std::move(clock)));
  const int error = io_uring_queue_init(kEntries, &engine->ring_, 0);
  if (error != 0) return base::ErrnoStatus(-error, "io_uring_setup");
  engine->ring_valid_ = true;
  // Children have no business with it.
  RETURN_IF_ERROR(base::SetCloseOnExec(engine->ring_.ring_fd));
  if (!KnowsOperations(engine->ring_)) {
    return base::ErrnoStatus(ENOSYS,
                             "io_uring_register(IORING_REGISTER_PROBE)");
  }
  ASSIGN_OR_RETURN(engine->slow_,
                   DiskThreadEngine::Create(loop, *engine, /*threads=*/1,
                                            std::move(on_thread_start)));
  RETURN_IF_ERROR(
      loop.Add(engine->ring_.ring_fd, EPOLLIN,
               [engine = engine.get()](uint32_t) { engine->OnReady(); }));
  return engine;
}

DiskUringEngine::~DiskUringEngine() {
  if (!ring_valid_) return;
  loop_.Remove(ring_.ring_fd);
  *retrying_ = false;
  GiveUp();
  slow_.reset();
  // The kernel writes to the guest's memory until it has reported.
  while (in_flight_ > 0 || !backlog_.empty()) {
    PrepareBacklog();
    const int result = io_uring_submit_and_wait(&ring_, 1);
    if (result < 0 && result != -EINTR && result != -EAGAIN &&
        result != -EBUSY) {
      break;
    }
    while (Reap().has_value()) continue;
  }
  io_uring_queue_exit(&ring_);
}

std::vector<DiskOp*> DiskUringEngine::GiveUp() {
  ++cancels_;
  return TakeCancelled(backlog_);
}

void DiskUringEngine::Cancel() {
  slow_->Cancel();
  std::vector<DiskOp*> given_up = GiveUp();
  if (given_up.empty()) return;
  loop_.Post([this, given_up = std::move(given_up),
              alive = std::weak_ptr<bool>(alive_)] {
    if (alive.expired()) return;
    for (DiskOp* op : given_up) client_.OnDiskOpDone(op, ECANCELED);
    client_.OnDiskOpsSettled();
    Commit();
  });
}

void DiskUringEngine::Submit(DiskOp* op) {
  if (IsSlow(op->kind)) {
    slow_->Submit(op);
    return;
  }
  op->cancels = cancels_;
  backlog_.push_back(op);
}

bool DiskUringEngine::Prepare(DiskOp* op) {
  if (in_flight_ >= kEntries) return false;
  struct io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  if (sqe == nullptr) return false;
  if (op->kind == DiskOp::Kind::kWrite && op->transferred == 0) {
    op->early_error = op->file->CheckPresent(op->offset, op->length);
  }
  const int fd = op->file->fd();
  const uint64_t at = op->offset + op->transferred;
  const DiskBuffers buffers = RemainingBuffers(*op);
  if (op->early_error != 0) {
    io_uring_prep_nop(sqe);
  } else if (op->kind == DiskOp::Kind::kFlush) {
    io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
  } else if (op->kind == DiskOp::Kind::kRead) {
    io_uring_prep_readv(sqe, fd, buffers.data, buffers.count, at);
  } else {
    io_uring_prep_writev2(sqe, fd, buffers.data, buffers.count, at,
                          op->durable ? RWF_DSYNC : 0);
  }
  io_uring_sqe_set_data(sqe, op);
  ++in_flight_;
  return true;
}

void DiskUringEngine::PrepareBacklog() {
  while (!backlog_.empty() && Prepare(backlog_.front())) backlog_.pop_front();
}

bool DiskUringEngine::IsBestDoneHere(const DiskOp& op) const {
  const bool transfer =
      op.kind == DiskOp::Kind::kRead || op.kind == DiskOp::Kind::kWrite;
  return transfer && !op.durable && op.length <= kMostAtOnce &&
         op.file->is_cached_file();
}

void DiskUringEngine::RunLoneTransfers() {
  while (in_flight_ == 0 && backlog_.size() == 1 &&
         IsBestDoneHere(*backlog_.front())) {
    DiskOp* op = backlog_.front();
    if (slow_for_ > 0) {
      --slow_for_;
      return;
    }
    const auto begin = clock_();
    const std::optional<int> error = RunFromCache(*op);
    if (!error.has_value()) return;
    if (clock_() - begin > kSlow) slow_for_ = kSlowFor;
    backlog_.pop_front();
    client_.OnDiskOpDone(op, *error);
    client_.OnDiskOpsSettled();
  }
}

void DiskUringEngine::Commit() {
  RunLoneTransfers();
  PrepareBacklog();
  while (io_uring_sq_ready(&ring_) > 0) {
    const int result = io_uring_submit(&ring_);
    if (result > 0 || result == -EINTR) continue;
    // The kernel is short of memory: what is queued stays queued.
    if (*retrying_) return;
    *retrying_ = true;
    loop_.Post([this, retrying = retrying_] {
      if (!std::exchange(*retrying, false)) return;
      Commit();
    });
    return;
  }
  // Some are done as soon as they are submitted.
  if (!reporting_ && io_uring_cq_ready(&ring_) > 0) OnReady();
}

DiskProgress DiskUringEngine::Account(DiskOp* op, int result) {
  if (op->early_error != 0) return {true, op->early_error};
  if (op->kind != DiskOp::Kind::kFlush) return AdvanceTransfer(*op, result);
  if (result == -EINTR || result == -EAGAIN) return {};
  return {true, FinishOp(*op, result < 0 ? -result : 0)};
}

std::optional<DiskUringEngine::Attempt> DiskUringEngine::Reap() {
  struct io_uring_cqe* cqe;
  if (io_uring_peek_cqe(&ring_, &cqe) != 0) return std::nullopt;
  DiskOp* op = static_cast<DiskOp*>(io_uring_cqe_get_data(cqe));
  const int result = cqe->res;
  io_uring_cqe_seen(&ring_, cqe);
  --in_flight_;
  DiskProgress progress = Account(op, result);
  if (progress.done) return Attempt{op, progress};
  if (IsCancelled(*op, cancels_)) {
    progress = {true, ECANCELED};
  } else if (!Prepare(op)) {
    backlog_.push_front(op);
  }
  return Attempt{op, progress};
}

void DiskUringEngine::OnDiskOpsSettled() {
  client_.OnDiskOpsSettled();
  Commit();  // what the callbacks submitted
}

void DiskUringEngine::OnReady() {
  bool any = false;
  reporting_ = true;
  // One turn: what comes in the meantime has the next one.
  for (unsigned i = 0; i < kEntries; ++i) {
    const std::optional<Attempt> attempt = Reap();
    if (!attempt.has_value()) break;
    if (!attempt->progress.done) continue;
    any = true;
    client_.OnDiskOpDone(attempt->op, attempt->progress.error);
  }
  if (any) client_.OnDiskOpsSettled();
  Commit();
  reporting_ = false;
}

}  // namespace cloister::devices::virtio
