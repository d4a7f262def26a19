// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/blk.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "cloister/base/status_macros.h"
#include "cloister/base/syscall.h"
#include "cloister/devices/virtio/disk_engine_factory.h"

namespace cloister::devices::virtio {
namespace {

constexpr uint16_t kMaxQueues = 64;

uint64_t Bit(uint16_t queue) { return uint64_t{1} << queue; }

absl::Status CheckOptions(const Blk::Options& options) {
  if (options.queues == 0 || options.queues > kMaxQueues) {
    return absl::InvalidArgumentError(absl::StrCat(
        options.name, ": ", options.queues, " queues are not within 1 to 64"));
  }
  const bool power = (options.queue_size & (options.queue_size - 1)) == 0;
  if (options.queue_size < 4 || options.queue_size > 1024 || !power) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.name, ": a queue size of ", options.queue_size,
                     " is no power of two within 4 to 1024"));
  }
  if (options.serial.size() > kBlkIdSize ||
      !std::all_of(options.serial.begin(), options.serial.end(),
                   [](unsigned char c) { return absl::ascii_isprint(c); })) {
    return absl::InvalidArgumentError(absl::StrCat(
        options.name, ": a serial number has at most 20 printable characters"));
  }
  return absl::OkStatus();
}

BlkConfig MakeConfig(const Blk::Options& options, const DiskFile& file) {
  BlkConfig config;
  config.size = file.size();
  config.read_only = file.options().read_only;
  config.logical_block = file.logical_block();
  config.physical_block = file.physical_block();
  config.queues = options.queues;
  config.queue_size = options.queue_size;
  return config;
}

const char* TypeName(BlkType type) {
  switch (type) {
    case BlkType::kRead:
      return "read";
    case BlkType::kWrite:
      return "write";
    case BlkType::kFlush:
      return "flush";
    case BlkType::kDiscard:
      return "discard";
    case BlkType::kWriteZeroes:
      return "write-zeroes";
    case BlkType::kGetId:
      break;
  }
  return "get-id";
}

}  // namespace

absl::StatusOr<std::unique_ptr<Blk>> Blk::Create(
    Options options, std::unique_ptr<Worker> worker) {
  RETURN_IF_ERROR(CheckOptions(options));
  ASSIGN_OR_RETURN(std::shared_ptr<DiskFile> file,
                   DiskFile::Open(options.file));
  std::unique_ptr<Blk> blk(
      new Blk(std::move(options), std::move(file), std::move(worker)));
  base::EventLoop& loop = blk->runner_.loop();
  ASSIGN_OR_RETURN(blk->limiter_,
                   FlowLimiter::Create(loop, blk->options_.limit,
                                       [blk = blk.get()] { blk->Resume(); }));
  if (blk->options_.engine_factory) {
    ASSIGN_OR_RETURN(blk->engine_, blk->options_.engine_factory(loop, *blk));
  } else {
    ASSIGN_OR_RETURN(blk->engine_,
                     CreateDiskEngine(blk->options_.engine, loop, *blk));
  }
  return blk;
}

Blk::Blk(Options options, std::shared_ptr<DiskFile> file,
         std::unique_ptr<Worker> worker)
    : options_(std::move(options)),
      features_(MakeConfig(options_, *file).Features()),
      queue_sizes_(options_.queues, options_.queue_size),
      config_(MakeConfig(options_, *file)),
      file_(file),
      runner_(std::move(worker), this),
      current_(std::move(file)),
      block_(config_.logical_block),
      read_only_(config_.read_only) {}

Blk::~Blk() { runner_.Shutdown(); }

void Blk::ReadConfig(uint64_t offset, absl::Span<uint8_t> data) {
  std::array<uint8_t, BlkConfig::kSize> bytes;
  {
    base::MutexLock lock(&mutex_);
    config_.writeback = writeback_;
    bytes = config_.Bytes();
  }
  for (uint8_t& byte : data) {
    byte = offset < bytes.size() ? bytes[offset] : 0;
    if (offset < bytes.size()) ++offset;
  }
}

void Blk::WriteConfig(uint64_t offset, absl::Span<const uint8_t> data) {
  if (offset > BlkConfig::kWritebackOffset) return;
  const uint64_t at = BlkConfig::kWritebackOffset - offset;
  if (at >= data.size()) return;
  const bool on = data[at] != 0;
  if (!writeback_.exchange(on) || on || flush_posted_.exchange(true)) return;
  runner_.loop().Post([this] { FlushForWriteThrough(); });
}

// Who cannot flush starts without a write-back cache (5.2.5.2).
void Blk::FeaturesAccepted(uint64_t features) {
  writeback_ = (features >> kBlkFlush & 1) != 0;
}

// A driver may switch to and fro as fast as it likes: one is in flight at most.
void Blk::FlushForWriteThrough() {
  flush_posted_ = false;
  flush_again_ = flush_ != nullptr;
  if (flush_again_ || !runner_.Has(kBlkConfigWce)) return;
  flush_ = SubmitFlush();
  engine_->Commit();  // may be the end of it
}

// A flush that no driver asked for.
BlkTask* Blk::SubmitFlush() {
  BlkTask* flush = AddTask(std::make_unique<BlkTask>(current_));
  if (flush->Begin().ok()) engine_->Submit(flush);
  return flush;
}

absl::Status Blk::Activate(Activation activation) {
  return runner_.Activate(std::move(activation));
}

void Blk::Reset(std::function<void()> done) {
  runner_.Reset([this, done = std::move(done)] { WhenIdle(done); });
}

void Blk::OnStop() {
  limiter_->Cancel();
  waiting_ = dirty_ = 0;
  writeback_ = true;
  for (std::unique_ptr<BlkTask>& task : tasks_) task->orphan = true;
  // Nobody waits for them any more, and a reset would have to.
  engine_->Cancel();
}

void Blk::OnKick(uint16_t queue) {
  if ((waiting_ & Bit(queue)) != 0 && limiter_->waiting()) return;
  runner_.Serve(queue, [this, queue](Queue& from, Chain chain) {
    return Serve(queue, from, std::move(chain));
  });
  engine_->Commit();
}

BlkLimits Blk::Limits() const {
  return {current_->size(), block_, read_only_, runner_.Has(kBlkDiscard),
          runner_.Has(kBlkWriteZeroes)};
}

bool Blk::IsDurable() const {
  // Who cannot flush has no write-back cache, whatever else was accepted.
  if (!runner_.Has(kBlkFlush)) return true;
  return runner_.Has(kBlkConfigWce) && !writeback_;
}

absl::StatusOr<DeviceRunner::Next> Blk::Serve(uint16_t index, Queue& queue,
                                              Chain chain) {
  RETURN_IF_ERROR(CheckBlkSizes(chain.readable_size(), chain.writable_size()));
  std::array<uint8_t, kBlkHeaderSize> header;
  RETURN_IF_ERROR(chain.Read(0, absl::MakeSpan(header)));
  const BlkLimits limits = Limits();
  ASSIGN_OR_RETURN(BlkRequest request,
                   ParseBlkRequest(header, chain.readable_size(),
                                   chain.writable_size(), limits));
  BlkSegments segments;
  if (request.status == BlkStatus::kOk && request.segments > 0) {
    std::array<uint8_t, kBlkMaxSegments * kBlkSegmentSize> bytes;
    auto used =
        absl::MakeSpan(bytes).subspan(0, request.segments * kBlkSegmentSize);
    RETURN_IF_ERROR(chain.Read(kBlkHeaderSize, used));
    segments = ParseBlkSegments(request.type, used, limits);
    request.status = segments.status;
    request.refusal = segments.refusal;
  }
  if (request.status != BlkStatus::kOk) {
    stats_.Refused(request.refusal);
    RETURN_IF_ERROR(Answer(queue, std::move(chain), request.status));
    return Next::kMore;
  }
  // Zeroes are bytes, too: some disks have to write each of them.
  uint64_t bytes = request.length;
  if (request.type == BlkType::kWriteZeroes) {
    for (const BlkSegment& segment : segments.segments) bytes += segment.length;
  }
  if (!limiter_->Take(bytes)) {
    waiting_ |= Bit(index);
    queue.Unpop(std::move(chain));
    return Next::kStop;
  }
  return StartTask(index, queue, std::move(chain), request,
                   std::move(segments.segments));
}

absl::StatusOr<DeviceRunner::Next> Blk::StartTask(
    uint16_t index, Queue& queue, Chain chain, const BlkRequest& request,
    std::vector<BlkSegment> segments) {
  if (request.type == BlkType::kGetId) {
    stats_.Done(request, false);
    RETURN_IF_ERROR(AnswerId(queue, std::move(chain)));
    return Next::kMore;
  }
  // What was parsed is a copy; only a write reads more.
  chain.ReleaseReadable(
      request.type == BlkType::kWrite ? kBlkHeaderSize : chain.readable_size());
  BlkTask* task = AddTask(
      std::make_unique<BlkTask>(std::move(chain), index, request,
                                std::move(segments), current_, IsDurable()));
  absl::StatusOr<bool> begun = task->Begin();
  if (begun.ok() && *begun) {
    engine_->Submit(task);
    return Next::kMore;
  }
  // Nothing to do (only empty segments), or no memory to do it with.
  if (begun.ok()) {
    stats_.Done(request, false);
  } else {
    Report(*task, ENOMEM);
  }
  Chain back = *std::move(task->chain());
  RemoveTask(task);
  RETURN_IF_ERROR(Answer(queue, std::move(back),
                         begun.ok() ? BlkStatus::kOk : BlkStatus::kIoError));
  return Next::kMore;
}

absl::Status Blk::Answer(Queue& queue, Chain chain, BlkStatus status) {
  const uint64_t size = chain.writable_size();
  const uint8_t byte = static_cast<uint8_t>(status);
  RETURN_IF_ERROR(chain.Write(size - 1, absl::MakeConstSpan(&byte, 1)));
  return queue.Push(std::move(chain), static_cast<uint32_t>(size));
}

absl::Status Blk::AnswerId(Queue& queue, Chain chain) {
  std::array<uint8_t, kBlkIdSize> id = {};
  std::copy(options_.serial.begin(), options_.serial.end(), id.begin());
  const uint64_t room =
      std::min<uint64_t>(chain.writable_size() - 1, id.size());
  RETURN_IF_ERROR(chain.Write(0, absl::MakeConstSpan(id).subspan(0, room)));
  return Answer(queue, std::move(chain), BlkStatus::kOk);
}

BlkTask* Blk::AddTask(std::unique_ptr<BlkTask> task) {
  in_flight_.fetch_add(1);
  task->index = tasks_.size();
  tasks_.push_back(std::move(task));
  return tasks_.back().get();
}

void Blk::RemoveTask(BlkTask* task) {
  const size_t index = task->index;
  tasks_.back()->index = index;
  std::swap(tasks_[index], tasks_.back());
  tasks_.pop_back();
  if (in_flight_.fetch_sub(1) == 1) RunIdle();
}

absl::StatusOr<bool> Blk::NextOp(BlkTask& task) {
  ASSIGN_OR_RETURN(const bool more, task.Continue());
  // The driver may have switched the cache off since this began; flushes that
  // it asks for after a change of images are of the new one.
  const bool flush = IsDurable() || task.file != current_.get();
  return more || (flush && task.BeginFlush());
}

void Blk::OnDiskOpDone(DiskOp* op, int error) {
  BlkTask* task = static_cast<BlkTask*>(op);
  if (error == 0 && !task->orphan) {
    absl::StatusOr<bool> more = NextOp(*task);
    if (more.ok() && *more) {
      engine_->Submit(task);
      return;
    }
    if (!more.ok()) error = EIO;
  }
  EndTask(task, error);
}

void Blk::EndTask(BlkTask* task, int error) {
  if (error == 0) {
    stats_.Done(task->request(), task->bounced());
  } else if (error != ECANCELED || !task->orphan) {
    Report(*task, error);
  }
  const uint16_t index = task->queue();
  Queue* queue = task->orphan ? nullptr : runner_.queue(index);
  if (queue != nullptr && task->chain().has_value()) {
    dirty_ |= Bit(index);
    runner_.Check(Answer(*queue, *std::move(task->chain()),
                         error == 0 ? BlkStatus::kOk : BlkStatus::kIoError));
  }
  const bool for_write_through = task == flush_;
  RemoveTask(task);
  if (!for_write_through) return;
  flush_ = nullptr;
  if (flush_again_) FlushForWriteThrough();
}

void Blk::Report(const BlkTask& task, int error) {
  if (!stats_.Failed(error)) return;
  const bool cut =
      error == EIO && task.file->CheckPresent(task.offset, task.length) != 0;
  options_.logger->Warning(absl::StrCat(
      options_.name, ": ", TypeName(task.request().type), " of ", task.length,
      " bytes at ", task.offset, " failed: ", base::ErrnoName(error),
      cut ? absl::StrCat("; ", task.file->options().path, " ends before that")
          : "",
      " (later ones are only counted)"));
}

void Blk::OnDiskOpsSettled() {
  for (uint64_t dirty = std::exchange(dirty_, 0); dirty != 0;
       dirty &= dirty - 1) {
    runner_.Signal(static_cast<uint16_t>(std::countr_zero(dirty)));
  }
}

void Blk::Resume() {
  for (uint64_t left = std::exchange(waiting_, 0); left != 0;
       left &= left - 1) {
    OnKick(static_cast<uint16_t>(std::countr_zero(left)));
  }
}

void Blk::WhenIdle(std::function<void()> done) {
  {
    base::MutexLock lock(&mutex_);
    when_idle_.push_back(std::move(done));
  }
  if (in_flight_ == 0) RunIdle();
}

void Blk::RunIdle() {
  std::vector<std::function<void()>> idle;
  {
    base::MutexLock lock(&mutex_);
    idle.swap(when_idle_);
  }
  for (const std::function<void()>& done : idle) done();
}

absl::Status Blk::UpdateFile(const DiskFileOptions& file) {
  base::MutexLock update(&update_mutex_);
  std::shared_ptr<DiskFile> old;
  {
    base::MutexLock lock(&mutex_);
    old = file_;
  }
  if (file.read_only != old->options().read_only) {
    return absl::FailedPreconditionError(absl::StrCat(
        options_.name, ": a guest that runs keeps a disk ",
        file.read_only ? "writable" : "read-only", ", as it was attached"));
  }
  if (old->IsSameFile(file.path) && file.direct == old->options().direct) {
    RETURN_IF_ERROR(old->RefreshSize().status());
    UseFile(std::move(old));
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(std::shared_ptr<DiskFile> opened, DiskFile::Open(file));
  if (opened->logical_block() > old->logical_block()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "disk ", file.path, ": has blocks of ", opened->logical_block(),
        " bytes, ", options_.name, " has ", old->logical_block()));
  }
  UseFile(std::move(opened));
  return absl::OkStatus();
}

void Blk::UseFile(std::shared_ptr<DiskFile> file) {
  {
    base::MutexLock lock(&mutex_);
    file_ = file;
    config_.size = file->size();
  }
  runner_.loop().Post([this, file] {
    if (current_ != file && !read_only_) {
      SubmitFlush();  // what was acknowledged, in the old image
      engine_->Commit();
    }
    current_ = file;
    if (Interrupts* interrupts = runner_.interrupts()) {
      interrupts->SignalConfig();
    }
  });
}

absl::Status Blk::UpdateLimit(const RateLimiterUpdate& update) {
  return limiter_->Update(update);
}

DiskFileOptions Blk::file() const {
  base::MutexLock lock(&mutex_);
  return file_->options();
}

uint64_t Blk::size() const {
  base::MutexLock lock(&mutex_);
  return config_.size;
}

BlkCounters Blk::counters() const {
  BlkCounters counters = stats_.Snapshot();
  counters.throttled = limiter_->throttled();
  counters.in_flight = in_flight_;
  return counters;
}

}  // namespace cloister::devices::virtio
