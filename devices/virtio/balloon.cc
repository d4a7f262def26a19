// SPDX-License-Identifier: Apache-2.0
#include "cloister/devices/virtio/balloon.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "cloister/base/bytes.h"
#include "cloister/base/status_macros.h"

namespace cloister::devices::virtio {

using memory::Gfn;
using memory::GuestAddress;
using memory::GuestRange;
using memory::kPageSize;

namespace {

// Feature bits (virtio 1.3, section 5.5.3).
constexpr int kMustTellHost = 0;
constexpr int kStatsVq = 1;
constexpr int kDeflateOnOom = 2;
constexpr int kPagePoison = 4;
constexpr int kReporting = 5;

// Queues. The fourth is for free page hints, which are not offered; but
// Linux before 6.11 leaves out the numbers of queues that are not there, so
// that its reports come by the fourth, or the third.
constexpr uint16_t kInflate = 0;
constexpr uint16_t kDeflate = 1;
constexpr uint16_t kStats = 2;
constexpr std::array<uint16_t, 5> kQueueSizes = {128, 128, 16, 128, 128};

// Offsets of the configuration space.
constexpr uint64_t kTargetOffset = 0;
constexpr uint64_t kActualOffset = 4;
constexpr uint64_t kPoisonOffset = 12;
constexpr size_t kConfigSize = 16;

constexpr size_t kStatSize = 10;  // a tag and a value
constexpr size_t kMaxStatEntries = 64;

}  // namespace

absl::StatusOr<std::unique_ptr<Balloon>> Balloon::Create(
    Options options, BalloonPages& pages, std::unique_ptr<Worker> worker) {
  std::unique_ptr<Balloon> balloon(
      new Balloon(std::move(options), pages, std::move(worker)));
  Balloon* self = balloon.get();
  ASSIGN_OR_RETURN(self->stats_timer_,
                   RateLimiterTimer::Create(self->runner_.loop(),
                                            [self] { self->OnStatsTimer(); }));
  RETURN_IF_ERROR(self->SetTarget(self->options_.target));
  RETURN_IF_ERROR(self->SetStatsInterval(self->options_.stats_interval));
  return balloon;
}

uint64_t Balloon::features() const {
  uint64_t features = uint64_t{1} << kMustTellHost | uint64_t{1} << kStatsVq |
                      uint64_t{1} << kPagePoison;
  if (options_.deflate_on_oom) features |= uint64_t{1} << kDeflateOnOom;
  if (options_.reporting) features |= uint64_t{1} << kReporting;
  return features;
}

absl::Span<const uint16_t> Balloon::queue_sizes() const { return kQueueSizes; }

// --- Configuration.

void Balloon::ReadConfig(uint64_t offset, absl::Span<uint8_t> data) {
  std::array<uint8_t, kConfigSize> config = {};
  base::StoreLe<uint32_t>(&config[kTargetOffset], target_pages_);
  base::StoreLe<uint32_t>(&config[kActualOffset], actual_pages_);
  base::StoreLe<uint32_t>(&config[kPoisonOffset], poison_);
  for (size_t i = 0; i < data.size(); ++i) {
    const bool inside = offset < config.size() && i < config.size() - offset;
    data[i] = inside ? config[offset + i] : 0;
  }
}

void Balloon::WriteConfig(uint64_t offset, absl::Span<const uint8_t> data) {
  // Two fields are the driver's; one call at a time comes here.
  const auto overlay = [&](uint64_t field, std::atomic<uint32_t>& value) {
    std::array<uint8_t, 4> bytes;
    base::StoreLe<uint32_t>(bytes.data(), value);
    for (size_t i = 0; i < bytes.size(); ++i) {
      const uint64_t at = field + i;
      if (at >= offset && at - offset < data.size()) {
        bytes[i] = data[at - offset];
      }
    }
    value = base::LoadLe<uint32_t>(bytes.data());
  };
  overlay(kActualOffset, actual_pages_);
  overlay(kPoisonOffset, poison_);
}

absl::Status Balloon::CheckTarget(uint64_t bytes) const {
  if (bytes % kPageSize != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        options_.name, ": a target of ", bytes, " bytes is not whole pages"));
  }
  if (bytes > options_.max || bytes / kPageSize > UINT32_MAX) {
    return absl::InvalidArgumentError(
        absl::StrCat(options_.name, ": a target of ", bytes,
                     " bytes; the guest has ", options_.max));
  }
  return absl::OkStatus();
}

absl::Status Balloon::SetTarget(uint64_t bytes) {
  RETURN_IF_ERROR(CheckTarget(bytes));
  target_pages_ = static_cast<uint32_t>(bytes / kPageSize);
  runner_.loop().Post([this] {
    if (Interrupts* interrupts = runner_.interrupts()) {
      interrupts->SignalConfig();
    }
  });
  return absl::OkStatus();
}

// --- Queues.

absl::Status Balloon::OnStart() {
  stats_waiting_ = false;
  ArmStatsTimer();
  return absl::OkStatus();
}

void Balloon::OnStop() {
  stats_timer_->Disarm();
  stats_waiting_ = false;
  actual_pages_ = 0;
  poison_ = 0;
  // Without a driver the guest may use any page.
  if (!pages_.TakeBackAll().ok()) errors_.Add();
}

void Balloon::OnKick(uint16_t queue) {
  if (queue == kInflate || queue == kDeflate) {
    runner_.Serve(queue, [this, queue](Queue& from, Chain chain) {
      return TakeFrames(from, std::move(chain), queue);
    });
  } else if (queue == kStats && runner_.Has(kStatsVq)) {
    RunStats();
  } else if (runner_.Has(kReporting)) {
    RunReports(queue);
  }
}

absl::StatusOr<DeviceRunner::Next> Balloon::TakeFrames(Queue& queue,
                                                       Chain chain,
                                                       uint16_t index) {
  const uint64_t size = chain.readable_size();
  if (chain.writable_size() != 0 || size % 4 != 0 || size / 4 > kMaxFrames) {
    return MakeQueueError(QueueError::kBadRequest,
                          absl::StrCat("a list of frames of ", size, " bytes"));
  }
  std::vector<uint8_t> bytes(size);
  RETURN_IF_ERROR(chain.Read(0, absl::MakeSpan(bytes)));
  chain.ReleaseReadable();
  std::vector<uint32_t> frames(size / 4);
  for (size_t i = 0; i < frames.size(); ++i) {
    frames[i] = base::LoadLe<uint32_t>(&bytes[i * 4]);
  }
  std::sort(frames.begin(), frames.end());
  frames.erase(std::unique(frames.begin(), frames.end()), frames.end());
  for (size_t first = 0; first < frames.size();) {
    size_t last = first;
    while (last + 1 < frames.size() && frames[last + 1] == frames[last] + 1) {
      ++last;
    }
    // Frame numbers have 32 bits: no range of them leaves the address space.
    TakeRange(*GuestRange::Create(GuestAddress::FromGfn(Gfn(frames[first])),
                                  (last - first + 1) * kPageSize),
              index);
    first = last + 1;
  }
  RETURN_IF_ERROR(queue.Push(std::move(chain), 0));
  // A request may be long work: let others have their turn.
  runner_.Again(index);
  return DeviceRunner::Next::kStop;
}

void Balloon::TakeRange(const GuestRange& range, uint16_t index) {
  const uint64_t count = range.size() / kPageSize;
  const absl::Status status = index == kInflate ? pages_.GiveUp(range).status()
                                                : pages_.TakeBack(range);
  if (status.ok()) {
    (index == kInflate ? inflated_ : deflated_).Add(count);
  } else if (!absl::IsInvalidArgument(status)) {
    errors_.Add();
  } else if (count == 1) {
    refused_.Add();
  } else {
    // One bad page must not spoil its neighbours.
    const uint64_t half = count / 2 * kPageSize;
    TakeRange(*GuestRange::Create(range.start(), half), index);
    TakeRange(
        *GuestRange::Create(*range.start().Plus(half), range.size() - half),
        index);
  }
}

// --- Reports.

void Balloon::RunReports(uint16_t index) {
  Queue* queue = runner_.queue(index);
  if (queue == nullptr) return;
  if (runner_.Check(TakeReport(*queue, index))) runner_.Signal(index);
}

absl::Status Balloon::TakeReport(Queue& queue, uint16_t index) {
  ASSIGN_OR_RETURN(std::optional<Chain> chain, queue.PopUnleased());
  if (!chain.has_value()) {
    ASSIGN_OR_RETURN(bool more, queue.EnableKicks());
    if (more) runner_.Again(index);
    return absl::OkStatus();
  }
  if (chain->readable_size() != 0) {
    return MakeQueueError(QueueError::kBadRequest,
                          "a report of free pages with readable bytes");
  }
  for (const GuestRange& range : chain->unleased()) DiscardRange(range);
  RETURN_IF_ERROR(queue.Push(*std::move(chain), 0));
  runner_.Again(index);
  return absl::OkStatus();
}

bool Balloon::KeepsPoison() const {
  return runner_.Has(kPagePoison) && poison_ != 0;
}

void Balloon::DiscardRange(const GuestRange& range) {
  if (KeepsPoison()) {
    // Freed pages would come back as zeroes.
    ignored_.Add();
    return;
  }
  if (!range.IsPageAligned()) {
    refused_.Add();
    return;
  }
  const absl::StatusOr<uint64_t> done = pages_.Discard(range);
  if (done.ok()) {
    reported_.Add(*done);
  } else if (absl::IsInvalidArgument(done.status())) {
    refused_.Add(range.size() / kPageSize);
  } else {
    errors_.Add();
  }
}

// --- Statistics.

void Balloon::RunStats() {
  Queue* queue = runner_.queue(kStats);
  if (queue == nullptr || stats_waiting_) return;
  runner_.Check(TakeStats(*queue));
}

// The driver gives one buffer and fills it anew each time that it gets it
// back. Until then it stays in the queue, without a lease.
absl::Status Balloon::TakeStats(Queue& queue) {
  ASSIGN_OR_RETURN(std::optional<Chain> chain, queue.Pop());
  if (!chain.has_value()) return queue.EnableKicks().status();
  if (chain->writable_size() != 0) {
    return MakeQueueError(QueueError::kBadRequest,
                          "statistics in a writable buffer");
  }
  const uint64_t count =
      std::min<uint64_t>(chain->readable_size() / kStatSize, kMaxStatEntries);
  std::vector<uint8_t> bytes(count * kStatSize);
  RETURN_IF_ERROR(chain->Read(0, absl::MakeSpan(bytes)));
  queue.Unpop(*std::move(chain));
  stats_waiting_ = true;
  BalloonStats stats = {};
  for (uint64_t i = 0; i < count; ++i) {
    const uint16_t tag = base::LoadLe<uint16_t>(&bytes[i * kStatSize]);
    if (tag >= stats.size()) continue;
    stats[tag] = base::LoadLe<uint64_t>(&bytes[i * kStatSize + 2]);
  }
  {
    base::MutexLock lock(&mutex_);
    stats_ = stats;
  }
  stats_updates_.Add();
  return queue.EnableKicks().status();
}

void Balloon::OnStatsTimer() {
  ArmStatsTimer();
  Queue* queue = runner_.queue(kStats);
  if (queue == nullptr || !stats_waiting_) return;
  stats_waiting_ = false;
  absl::StatusOr<std::optional<Chain>> chain = queue->Pop();
  if (!runner_.Check(chain.status()) || !chain->has_value()) return;
  if (runner_.Check(queue->Push(**std::move(chain), 0))) {
    runner_.Signal(kStats);
  }
}

void Balloon::ArmStatsTimer() {
  const std::chrono::seconds interval = interval_.load();
  if (interval == std::chrono::seconds(0) || !runner_.active()) {
    stats_timer_->Disarm();
  } else {
    stats_timer_->Arm(interval);
  }
}

absl::Status Balloon::SetStatsInterval(std::chrono::seconds interval) {
  constexpr std::chrono::seconds kDay = std::chrono::hours(24);
  if (interval < std::chrono::seconds(0) || interval > kDay) {
    return absl::InvalidArgumentError(
        absl::StrCat(options_.name, ": an interval of statistics of ",
                     interval.count(), " s; 0 to ", kDay.count()));
  }
  interval_ = interval;
  runner_.loop().Post([this] { ArmStatsTimer(); });
  return absl::OkStatus();
}

BalloonStats Balloon::stats() const {
  base::MutexLock lock(&mutex_);
  return stats_;
}

Balloon::Counters Balloon::counters() const {
  return {inflated_.value(),     deflated_.value(), refused_.value(),
          reported_.value(),     ignored_.value(),  errors_.value(),
          stats_updates_.value()};
}

}  // namespace cloister::devices::virtio
